# MobileNetV2 1.0 on ImageNet-1k with RSD: 8 GPUs x 64 images, 100 epochs. A pair adds its teacher.
_base_ = [
    '../methods/rsd.py',
    '../datasets/imagenet_bs64.py',
    '../schedules/in1k_cnn_100e.py',
    '../default_runtime.py',
]

model = dict(student=dict(cfg_path='mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'))
