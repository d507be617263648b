# Mixer-B/16 teaches MobileNetV2 on CIFAR-100 at 224 px: 2 GPUs x 128 images, 300 epochs.
_base_ = '../_base_/students/mobilenetv2_cifar100.py'

model = dict(
    teacher=dict(
        cfg_path='{{ fileDirname }}/../teachers/mixer-b_cifar100.py',
        # Trained by the config above; a published checkpoint can take its place.
        checkpoint='work_dirs/mixer-b_cifar100/epoch_30.pth',
    )
)
