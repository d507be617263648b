# Swin-T teaches ResMLP-S12 on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/imagenet_bs128_randaug.py',
    '../_base_/schedules/in1k_token_300e.py',
    '../_base_/ema_runtime.py',
]

model = dict(
    student=dict(
        type='TimmClassifier',
        model_name='resmlp_12_224',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    ),
    teacher=dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', pretrained=True),
)
