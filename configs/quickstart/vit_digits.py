# The quickstart's baseline: the student, a small vision transformer, without teacher.
_base_ = [
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/digits_30e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=128),
        img_size=8,
        patch_size=2,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64),
)
