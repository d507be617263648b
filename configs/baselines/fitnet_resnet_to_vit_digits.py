# The quickstart's pair, with FitNet.
_base_ = ['../quickstart/resnet_to_vit_digits.py', '../_base_/methods/fitnet.py']

model = dict(_delete_=True, student=_base_.model.student, teacher=_base_.model.teacher, **_base_.method)
