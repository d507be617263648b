# Swin-T as a teacher on CIFAR-100 at 224 px, fine-tuned from timm's ImageNet weights: 2 GPUs x 128 images, 30 epochs.
# A sample recipe, not a published one. The state dicts of published teachers also fit this model.
_base_ = [
    '../_base_/datasets/cifar100_224_bs128.py',
    '../_base_/schedules/finetune_30e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='TimmClassifier',
    model_name='swin_tiny_patch4_window7_224',
    pretrained=True,
    num_classes=100,
    drop_path_rate=0.1,
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
)
