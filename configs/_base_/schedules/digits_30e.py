# AdamW with warm-up and cosine decay, for the quickstart's small models.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=3, end=30, convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=3)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=64)
