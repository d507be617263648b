# Multi-stage RSD: RSD on the embeddings, and between OFA's four branches and the teacher's embedding.
method = dict(
    type='RSDDistiller',
    terms={
        f'loss_rsd{stage}': dict(
            student_tap=f'stage{stage}',
            projector=dict(type='OFAProjector', stage=stage),
            loss=dict(type='RSDLoss', loss_weight=0.1, kappa=0.01),
        )
        for stage in (1, 2, 3, 4)
    },
)
