# Swin-T teaches ResNet-18 on CIFAR-100 at 224 px: 2 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/cifar100_224_bs128.py',
    '../_base_/schedules/cifar100_cnn_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    student=dict(
        cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py',
        head=dict(num_classes=100, loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)),
    ),
    # The checkpoint is what the teacher's config trains; a published one goes in its place.
    teacher=dict(
        cfg_path='{{ fileDirname }}/../teachers/swin-t_cifar100.py',
        checkpoint='work_dirs/swin-t_cifar100/epoch_30.pth',
    ),
)
