# ConvNeXt-T teaches DeiT-T on CIFAR-100, with RSD on the logits.
_base_ = ['../rsd/convnext-t_to_deit-t_cifar100.py', '../_base_/methods/rsd_logits.py']

model = dict(_delete_=True, student=_base_.model.student, teacher=_base_.model.teacher, **_base_.method)
