# scikit-learn's handwritten digits: 1,200 training and 597 test images of 8 x 8 px.
data_preprocessor = dict(
    num_classes=10,
    # Mean and std of the training images, the same for R, G and B.
    mean=[77.7, 77.7, 77.7],
    std=[95.9, 95.9, 95.9],
    # The dataset's images are RGB.
    to_rgb=False,
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=8, padding=1),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,  # MMPretrain's tools set True by default, which needs workers
    dataset=dict(type='SklearnDigits', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='SklearnDigits', split='test', pipeline=test_pipeline, test_mode=True),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='Accuracy', topk=(1,))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
