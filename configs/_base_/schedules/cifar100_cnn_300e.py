# The CIFAR-100 recipe for CNN students (authors' release): 2 GPUs x 128 images, 300 epochs, SGD.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=2e-3))

param_scheduler = [
    # 3 epochs of warm-up. Its start is not published; 1 % of the learning rate here.
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-3, by_epoch=True, begin=3, end=300, convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# For --auto-scale-lr, with another number of GPUs or images per GPU.
auto_scale_lr = dict(base_batch_size=256)
