# The ImageNet-1k recipe for CNN students (authors' release): 8 GPUs x 64 images, 100 epochs, SGD.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))

param_scheduler = [
    # 3 epochs of warm-up. Where it starts is not published; a hundredth of the learning rate here.
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
]

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# Used with --auto-scale-lr, for another number of GPUs or images per GPU.
auto_scale_lr = dict(base_batch_size=512)
