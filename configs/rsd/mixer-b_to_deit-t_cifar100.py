# Mixer-B/16 teaches DeiT-T on CIFAR-100 at 224 px: 2 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/cifar100_224_bs128_randaug.py',
    '../_base_/schedules/cifar100_token_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py', head=dict(num_classes=100)),
    # The checkpoint is what the teacher's config trains; a published one goes in its place.
    teacher=dict(
        cfg_path='{{ fileDirname }}/../teachers/mixer-b_cifar100.py',
        checkpoint='work_dirs/mixer-b_cifar100/epoch_30.pth',
    ),
)
