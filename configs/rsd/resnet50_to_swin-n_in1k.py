# ResNet-50 teaches Swin-N on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/imagenet_bs128_randaug.py',
    '../_base_/schedules/in1k_token_300e.py',
    '../_base_/ema_runtime.py',
]

model = dict(
    # Swin-Nano (OFA-KD): Swin-T's config with embed 64, depths 2-2-2-2, heads 2-4-8-16, and no drop path.
    student=dict(
        cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        backbone=dict(
            arch=dict(_delete_=True, embed_dims=64, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16]),
            drop_path_rate=0.0,
        ),
        head=dict(in_channels=512),
    ),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py', pretrained=True),
)
