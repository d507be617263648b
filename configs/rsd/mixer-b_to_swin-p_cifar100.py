# Mixer-B/16 teaches Swin-P on CIFAR-100 at 224 px: 2 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/cifar100_224_bs128_randaug.py',
    '../_base_/schedules/cifar100_token_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # Swin-Pico (OFA-KD): Swin-T's config with embed 48, depths 2-2-2-2, heads 2-4-8-16, and no drop path.
    student=dict(
        cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        backbone=dict(
            arch=dict(_delete_=True, embed_dims=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
            drop_path_rate=0.0,
        ),
        head=dict(num_classes=100, in_channels=384),
    ),
    # The checkpoint is what the teacher's config trains; a published one goes in its place.
    teacher=dict(
        cfg_path='{{ fileDirname }}/../teachers/mixer-b_cifar100.py',
        checkpoint='work_dirs/mixer-b_cifar100/epoch_30.pth',
    ),
)
