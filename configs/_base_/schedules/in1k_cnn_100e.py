# The ImageNet-1k recipe for CNN students (authors' release): 8 GPUs x 64 images, 100 epochs, SGD with learning rate 0.1
# (divided by 10 every 30 epochs), momentum 0.9 and weight decay 1e-4. MMPretrain's, but for warm-up and batch size.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'

param_scheduler = [
    # 3 epochs of warm-up. Its start is not published; 1 % of the learning rate here.
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
]

# For --auto-scale-lr, with another number of GPUs or images per GPU.
auto_scale_lr = dict(base_batch_size=512)
