# The quickstart's pair, with CRD.
_base_ = ['../quickstart/resnet_to_vit_digits.py', '../_base_/methods/crd.py']

# The memory is that of 1,200 images, of which it holds fewer than the published number of negatives.
_base_.method.terms.loss_crd.loss.update(num_samples=1200, negatives=1024)
model = dict(_delete_=True, student=_base_.model.student, teacher=_base_.model.teacher, **_base_.method)
