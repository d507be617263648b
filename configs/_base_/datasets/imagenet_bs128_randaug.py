# ImageNet-1k, 128 images per GPU, with the augmentation of token students: RandAugment m9 (mstd 0.5, increasing) and random
# erasing 0.25, from MMPretrain; Mixup and CutMix come with the student. The recipe's colour jitter 0.4 is left out, since
# timm, with which it was published, turns it off where RandAugment is on.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

# The statistics of RSD are those of a batch; an incomplete one at the end of an epoch would distort them.
train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
