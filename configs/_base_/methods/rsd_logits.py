# RSD ablation of the paper: RSD's loss on the logits, without projector.
method = dict(
    type='RSDDistiller',
    student_tap='logits',
    teacher_tap='logits',
    projector=None,
    loss=dict(type='RSDLoss', loss_weight=0.1, kappa=0.01),
)
