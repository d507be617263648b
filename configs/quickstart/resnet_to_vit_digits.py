# The quickstart's student with RSD: the config of the baseline, plus a teacher.
_base_ = './vit_digits.py'

model = dict(
    _delete_=True,
    type='RSDDistiller',
    student=_base_.model,
    teacher=dict(
        cfg_path='{{ fileDirname }}/resnet_digits.py',
        checkpoint='work_dirs/quickstart/resnet_digits/epoch_12.pth',
    ),
)
