# OFA's loss on the logits alone (arXiv 2310.19444). The releases set eps to 1 to 1.5, depending on the pair.
method = dict(
    type='Distiller',
    terms=dict(loss_ofa=dict(student_tap='logits', teacher_tap='logits', loss=dict(type='OFALoss', eps=1.0, tau=1.0))),
)
