# CIFAR-100 resized to 224 px, 128 images per GPU: random resized crop and horizontal flip.
data_preprocessor = dict(
    num_classes=100,
    # ImageNet's mean and std, RGB.
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    # The dataset's images are RGB.
    to_rgb=False,
)

train_pipeline = [
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=5,
    dataset=dict(type='CIFAR100', data_root='data/cifar100', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    # RSD computes batch statistics, which an incomplete last batch would distort.
    drop_last=True,
)
val_dataloader = dict(
    batch_size=128,
    num_workers=5,
    dataset=dict(type='CIFAR100', data_root='data/cifar100', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
