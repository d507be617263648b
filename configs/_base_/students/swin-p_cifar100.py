# Swin-P (Pico) on CIFAR-100 at 224 px with RSD: 2 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/cifar100_224_bs128_randaug.py',
    '../schedules/cifar100_token_300e.py',
    '../default_runtime.py',
]

model = dict(
    # As in OFA-KD: Swin-T with fewer channels, blocks and heads, and without drop path.
    student=dict(
        cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        backbone=dict(
            arch=dict(_delete_=True, embed_dims=48, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
            drop_path_rate=0.0,
        ),
        head=dict(num_classes=100, in_channels=384),
    )
)
