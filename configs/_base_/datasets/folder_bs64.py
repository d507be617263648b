# Your own images, one folder per class: DATA_ROOT/train/CLASS/*.jpg and DATA_ROOT/val/CLASS/*.jpg. 64 images per GPU at
# 224 px, with ImageNet's pipeline. A config sets data_root and the number of classes.
_base_ = './imagenet_bs64.py'

folder = dict(_delete_=True, type='CustomDataset', data_root='data/my_dataset')
train_dataloader = dict(dataset=dict(data_prefix='train', pipeline=_base_.train_pipeline, **folder))
val_dataloader = dict(dataset=dict(data_prefix='val', pipeline=_base_.test_pipeline, **folder))
test_dataloader = val_dataloader
del folder  # so that it is no key of the config
