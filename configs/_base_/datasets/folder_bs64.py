# Images of one's own, in a folder for each class: DATA_ROOT/train/CLASS/*.jpg and DATA_ROOT/val/CLASS/*.jpg, 64 images per
# GPU, at 224 px, with ImageNet's pipeline. A config adds data_root and the number of classes.
_base_ = './imagenet_bs64.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/my_dataset',
        data_prefix='train',
        pipeline=_base_.train_pipeline,  # noqa: F821 (mmengine defines _base_)
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/my_dataset',
        data_prefix='val',
        pipeline=_base_.test_pipeline,  # noqa: F821
    )
)
test_dataloader = val_dataloader
