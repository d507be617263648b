# ImageNet-1k, 64 images per GPU, at 224 px: random resized crop and horizontal flip.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py'

# The statistics of RSD are those of a batch; an incomplete one at the end of an epoch would distort them.
train_dataloader = dict(drop_last=True)
