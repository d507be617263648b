# FitNet (arXiv 1412.6550): hints at four stages, as in the releases of OFA-KD and RSD.
method = dict(
    type='Distiller',
    terms={
        f'loss_fitnet{stage}': dict(
            student_tap=f'stage{stage}',
            teacher_tap=f'stage{stage}',
            projector=dict(type='HintRegressor'),
            loss=dict(type='HintLoss', loss_weight=1.0),
        )
        for stage in (1, 2, 3, 4)
    },
)
