# Swin-N (Nano) on ImageNet-1k with RSD: 8 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/imagenet_bs128_randaug.py',
    '../schedules/in1k_token_300e.py',
    '../ema_runtime.py',
]

model = dict(
    # As in OFA-KD: Swin-T with fewer channels, blocks and heads, and without drop path.
    student=dict(
        cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        backbone=dict(
            arch=dict(_delete_=True, embed_dims=64, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
            drop_path_rate=0.0,
        ),
        head=dict(in_channels=512),
    )
)
