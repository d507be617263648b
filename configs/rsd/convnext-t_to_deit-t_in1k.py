# ConvNeXt-T teaches DeiT-T on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/imagenet_bs128_randaug.py',
    '../_base_/schedules/in1k_token_300e.py',
    '../_base_/ema_runtime.py',
]

model = dict(
    student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', pretrained=True),
)
