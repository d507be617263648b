# ViT-S/16 as a teacher on CIFAR-100, fine-tuned like Swin-T.
_base_ = './swin-t_cifar100.py'

model = dict(model_name='vit_small_patch16_224')
