# Correlation congruence (arXiv 1904.01802) on embeddings of 128 channels. Values from the releases of OFA-KD and RSD.
method = dict(
    type='Distiller',
    terms=dict(
        loss_cc=dict(
            projector=dict(type='LinearProjector', out_channels=128),
            teacher_projector=dict(type='LinearProjector', out_channels=128),
            loss=dict(type='CCLoss', loss_weight=0.02),
        )
    ),
)
