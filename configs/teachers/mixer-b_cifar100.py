# Mixer-B/16 as a teacher on CIFAR-100, fine-tuned like Swin-T.
_base_ = './swin-t_cifar100.py'

model = dict(model_name='mixer_b16_224')
