# Contrastive representation distillation (arXiv 1910.10699) on embeddings of 128 channels. Values from the releases of
# OFA-KD and RSD. num_samples is the size of the training set, here that of CIFAR-100.
method = dict(
    type='Distiller',
    terms=dict(
        loss_crd=dict(
            projector=dict(type='LinearProjector', out_channels=128),
            teacher_projector=dict(type='LinearProjector', out_channels=128),
            loss=dict(type='CRDMemoryLoss', num_samples=50000, negatives=16384, momentum=0.5, tau=0.07),
        )
    ),
)
