# Mixer-B/16 teaches ResNet-18 on ImageNet-1k: 8 GPUs x 64 images, 100 epochs.
_base_ = '../_base_/students/resnet18_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py', pretrained=True))
