# configs/quickstart/resnet_to_vit_digits.py for mmrazor: its SingleTeacherDistill with RSD's projector and loss.
_base_ = '../quickstart/vit_digits.py'

# The second makes mmrazor 1.0.0 importable; mmrazor's main branch does not need it.
custom_imports = dict(imports=['rsd_mm', 'rsd_mm.compat.mmrazor'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    _scope_='mmrazor',
    type='SingleTeacherDistill',
    data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', **_base_.data_preprocessor),
    architecture=dict(_scope_='mmpretrain', **_base_.model),
    teacher=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
    ),
    teacher_ckpt='work_dirs/quickstart/resnet_digits/epoch_12.pth',
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(emb=dict(type='ModuleInputs', source='head.layers.head')),
        teacher_recorders=dict(emb=dict(type='ModuleInputs', source='head.fc')),
        connectors=dict(proj=dict(type='RSDProjector', in_channels=64, out_channels=128)),
        distill_losses=dict(loss_rsd=dict(type='RSDLoss')),
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
