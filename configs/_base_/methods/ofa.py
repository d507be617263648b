# OFA-KD in full (arXiv 2310.19444): branches at four stages, and the logits. The releases set eps to 1 to 1.5,
# depending on the pair.
method = dict(
    type='Distiller',
    terms=dict(
        {
            f'loss_ofa{stage}': dict(
                student_tap=f'stage{stage}',
                teacher_tap='logits',
                projector=dict(type='OFAProjector', stage=stage),
                loss=dict(type='OFALoss', eps=1.0, tau=1.0),
            )
            for stage in (1, 2, 3, 4)
        },
        loss_ofa=dict(student_tap='logits', teacher_tap='logits', loss=dict(type='OFALoss', eps=1.0, tau=1.0)),
    ),
)
