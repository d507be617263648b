# ResNet-50 teaches DeiT-T on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = '../_base_/students/deit-t_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py', pretrained=True))
