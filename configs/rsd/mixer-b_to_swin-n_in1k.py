# Mixer-B/16 teaches Swin-N on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = '../_base_/students/swin-n_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py', pretrained=True))
