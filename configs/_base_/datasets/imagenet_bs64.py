# ImageNet-1k, 64 images per GPU, at 224 px: random resized crop and horizontal flip.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py'

# RSD computes batch statistics, which an incomplete last batch would distort.
train_dataloader = dict(drop_last=True)
