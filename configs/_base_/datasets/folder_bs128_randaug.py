# Your own images as in folder_bs64.py, 128 per GPU, with the augmentation for token students.
_base_ = './imagenet_bs128_randaug.py'

folder = dict(_delete_=True, type='CustomDataset', data_root='data/my_dataset')
train_dataloader = dict(dataset=dict(data_prefix='train', pipeline=_base_.train_pipeline, **folder))
val_dataloader = dict(dataset=dict(data_prefix='val', pipeline=_base_.test_pipeline, **folder))
test_dataloader = val_dataloader
del folder  # so that it is no key of the config
