# Swin-T teaches ResNet-18 on CIFAR-100, with RSD with expansion 4.
_base_ = ['../rsd/swin-t_to_resnet18_cifar100.py', '../_base_/methods/rsd_gamma4.py']

model = dict(_delete_=True, student=_base_.model.student, teacher=_base_.model.teacher, **_base_.method)
