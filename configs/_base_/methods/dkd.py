# Decoupled knowledge distillation (arXiv 2203.08679). Values from the releases of OFA-KD and RSD.
method = dict(
    type='Distiller',
    terms=dict(
        loss_dkd=dict(
            student_tap='logits',
            teacher_tap='logits',
            loss=dict(type='DecoupledKDLoss', alpha=1.0, beta=2.0, tau=1.0),
        )
    ),
)
