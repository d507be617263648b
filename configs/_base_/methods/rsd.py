# Redundancy Suppression Distillation with the paper's values. A pair adds its student and teacher.
model = dict(
    type='RSDDistiller',
    # The AAD projector; its widths are inferred from student and teacher.
    projector=dict(type='RSDProjector', expansion=2),
    # loss_weight is the paper's lambda.
    loss=dict(type='RSDLoss', loss_weight=0.1, kappa=0.01),
)
