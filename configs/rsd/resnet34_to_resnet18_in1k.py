# ResNet-34, of the same architecture, teaches ResNet-18 on ImageNet-1k: 8 GPUs x 64 images, 100 epochs.
_base_ = '../_base_/students/resnet18_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::resnet/resnet34_8xb32_in1k.py', pretrained=True))
