# The quickstart's teacher: a small CNN, which needs fewer epochs than the student.
_base_ = [
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/digits_30e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=1, end=12, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=12)
