# DeiT-T on ImageNet-1k with RSD: 8 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/imagenet_bs128_randaug.py',
    '../schedules/in1k_token_300e.py',
    '../ema_runtime.py',
]

model = dict(student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'))
