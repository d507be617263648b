# Swin-T teaches ResNet-18 on CIFAR-100 at 224 px: 2 GPUs x 128 images, 300 epochs.
_base_ = '../_base_/students/resnet18_cifar100.py'

model = dict(
    teacher=dict(
        cfg_path='{{ fileDirname }}/../teachers/swin-t_cifar100.py',
        # Trained by the config above; a published checkpoint can take its place.
        checkpoint='work_dirs/swin-t_cifar100/epoch_30.pth',
    )
)
