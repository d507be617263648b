# DeiT-T teaches MobileNetV2 1.0 on ImageNet-1k: 8 GPUs x 64 images, 100 epochs.
_base_ = '../_base_/students/mobilenetv2_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py', pretrained=True))
