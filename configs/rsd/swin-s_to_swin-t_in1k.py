# Swin-S, of the same architecture, teaches Swin-T on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/imagenet_bs128_randaug.py',
    '../_base_/schedules/in1k_token_300e.py',
    '../_base_/ema_runtime.py',
]

model = dict(
    student=dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', backbone=dict(drop_path_rate=0.0)),
    teacher=dict(cfg_path='mmpretrain::swin_transformer/swin-small_16xb64_in1k.py', pretrained=True),
)
