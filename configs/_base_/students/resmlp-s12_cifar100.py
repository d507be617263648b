# ResMLP-S12 on CIFAR-100 at 224 px with RSD: 2 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/cifar100_224_bs128_randaug.py',
    '../schedules/cifar100_token_300e.py',
    '../default_runtime.py',
]

model = dict(
    student=dict(
        type='TimmClassifier',
        model_name='resmlp_12_224',
        num_classes=100,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
    )
)
