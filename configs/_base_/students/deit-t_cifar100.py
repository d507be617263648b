# DeiT-T on CIFAR-100 at 224 px with RSD: 2 GPUs x 128 images, 300 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/cifar100_224_bs128_randaug.py',
    '../schedules/cifar100_token_300e.py',
    '../default_runtime.py',
]

model = dict(student=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py', head=dict(num_classes=100)))
