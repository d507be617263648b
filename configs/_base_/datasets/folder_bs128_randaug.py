# Images of one's own as in folder_bs64.py, 128 per GPU, with the augmentation of token students.
_base_ = './imagenet_bs128_randaug.py'

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
