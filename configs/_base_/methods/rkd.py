# Relational knowledge distillation (arXiv 1904.05068) on the embeddings. Weights from RSD's release.
method = dict(
    type='Distiller',
    terms=dict(loss_rkd=dict(loss=dict(type='RKDLoss', distance_weight=25.0, angle_weight=50.0))),
)
