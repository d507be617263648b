# The ImageNet-1k recipe for ViT and MLP students (authors' release): 8 GPUs x 128 images, 300 epochs, AdamW with
# learning rate 5e-4, weight decay 0.05, gradients clipped at 5. Which parameters decay is MMPretrain's (timm's) choice.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=5.0),
)

param_scheduler = [
    # 20 epochs of warm-up from 5e-7.
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
