# Scale-decoupled distillation (arXiv 2403.13512) on top of KD, with 1 + 4 + 16 regions.
method = dict(
    type='Distiller',
    terms=dict(
        loss_sdd=dict(
            student_tap=dict(type='ScaleLogits', scales=(1, 2, 4)),
            teacher_tap=dict(type='ScaleLogits', scales=(1, 2, 4)),
            loss=dict(type='SDDLoss', complementary=2.0, tau=1.0),
        )
    ),
)
