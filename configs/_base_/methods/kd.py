# Knowledge distillation (arXiv 1503.02531). Temperature from the releases of OFA-KD and RSD.
method = dict(
    type='Distiller',
    terms=dict(loss_kd=dict(student_tap='logits', teacher_tap='logits', loss=dict(type='KDLoss', tau=1.0))),
)
