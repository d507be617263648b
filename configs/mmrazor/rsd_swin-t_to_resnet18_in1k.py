# configs/rsd/swin-t_to_resnet18_in1k.py for mmrazor: its SingleTeacherDistill with RSD's projector and loss.
_base_ = [
    'mmpretrain::_base_/models/resnet18.py',
    '../_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/in1k_cnn_100e.py',
    '../_base_/default_runtime.py',
]

# The second makes mmrazor 1.0.0 importable; mmrazor's main branch does not need it.
custom_imports = dict(imports=['rsd_mm', 'rsd_mm.compat.mmrazor'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    _scope_='mmrazor',
    type='SingleTeacherDistill',
    data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', **_base_.data_preprocessor),
    architecture=_base_.model,  # its _scope_ is mmpretrain already
    teacher=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        # mmrazor sets only the teacher's BatchNorm to eval, so drop path is disabled here.
        backbone=dict(type='SwinTransformer', arch='tiny', img_size=224, drop_path_rate=0.0),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
    ),
    # Loaded with strict=False: mmrazor only logs keys that do not match.
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth',
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(emb=dict(type='ModuleInputs', source='head.fc')),
        teacher_recorders=dict(emb=dict(type='ModuleInputs', source='head.fc')),
        connectors=dict(proj=dict(type='RSDProjector', in_channels=512, out_channels=768, expansion=2)),
        distill_losses=dict(loss_rsd=dict(type='RSDLoss', loss_weight=0.1, kappa=0.01)),
        loss_forward_mappings=dict(
            loss_rsd=dict(
                # Inputs are recorded as a tuple, hence data_idx.
                s_feature=dict(recorder='emb', from_student=True, data_idx=0, connector='proj'),
                t_feature=dict(recorder='emb', from_student=False, data_idx=0),
            )
        ),
    ),
)

# Also validates the teacher.
val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')
