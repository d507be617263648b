# The ImageNet-1k recipe for CNN students (authors' release): 8 GPUs x 64 images, 100 epochs, SGD with learning rate 0.1,
# momentum 0.9 and weight decay 1e-4, a tenth of it every 30 epochs. MMPretrain's schedule is the same but for two things.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'

param_scheduler = [
    # 3 epochs of warm-up. Where it starts is not published; a hundredth of the learning rate here.
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
]

# Used with --auto-scale-lr, for another number of GPUs or images per GPU.
auto_scale_lr = dict(base_batch_size=512)
