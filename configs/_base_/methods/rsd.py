# Redundancy Suppression Distillation (arXiv 2507.21844) with the paper's values. A pair adds student and teacher.
model = dict(
    type='RSDDistiller',
    # The AAD projector; its widths are inferred from both models.
    projector=dict(type='RSDProjector', expansion=2),
    # loss_weight is lambda in the paper.
    loss=dict(type='RSDLoss', loss_weight=0.1, kappa=0.01),
)
