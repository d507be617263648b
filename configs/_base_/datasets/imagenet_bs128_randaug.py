# ImageNet-1k, 128 images per GPU, with the augmentation for token students: RandAugment m9 (mstd 0.5, increasing) and
# random erasing 0.25, both from MMPretrain; Mixup and CutMix belong to the student. The recipe's color jitter of 0.4 is
# left out: timm, which it was published for, disables it when RandAugment is used.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

# RSD computes batch statistics, which an incomplete last batch would distort.
train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
