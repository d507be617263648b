# Knowledge distillation from a stronger teacher, DIST (arXiv 2205.10536). Values from the releases of OFA-KD and RSD.
method = dict(
    type='Distiller',
    terms=dict(
        loss_dist=dict(
            student_tap='logits',
            teacher_tap='logits',
            loss=dict(type='StrongerTeacherLoss', beta=1.0, gamma=1.0, tau=1.0),
        )
    ),
)
