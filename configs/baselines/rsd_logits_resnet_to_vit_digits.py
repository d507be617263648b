# The quickstart's pair, with RSD on the logits.
_base_ = ['../quickstart/resnet_to_vit_digits.py', '../_base_/methods/rsd_logits.py']

model = dict(_delete_=True, student=_base_.model.student, teacher=_base_.model.teacher, **_base_.method)
