# Mixer-B/16 teaches ResNet-18 on ImageNet-1k: 8 GPUs x 64 images, 100 epochs.
_base_ = [
    '../_base_/methods/rsd.py',
    '../_base_/datasets/imagenet_bs64.py',
    '../_base_/schedules/in1k_cnn_100e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py', pretrained=True),
)
