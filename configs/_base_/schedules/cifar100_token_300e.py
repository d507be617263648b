# The CIFAR-100 recipe for ViT and MLP students (authors' release): 2 GPUs x 128 images, 300 epochs, AdamW with learning
# rate 5e-4 and weight decay 0.05, gradients clipped at 5. Which parameters decay is MMPretrain's (timm's) choice.
_base_ = './in1k_token_300e.py'

param_scheduler = [
    # 20 epochs of warm-up from 5e-7.
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]

# For --auto-scale-lr, with another number of GPUs or images per GPU.
auto_scale_lr = dict(base_batch_size=256)
