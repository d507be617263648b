# Swin-T teaches ResMLP-S12 on ImageNet-1k: 8 GPUs x 128 images, 300 epochs.
_base_ = '../_base_/students/resmlp-s12_in1k.py'

model = dict(teacher=dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', pretrained=True))
