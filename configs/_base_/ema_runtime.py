# The runtime with an EMA of the student's weights, decay 0.99996 (ImageNet-1k recipe for ViT and MLP students).
_base_ = './default_runtime.py'

# mmengine's momentum is 1 - decay.
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
