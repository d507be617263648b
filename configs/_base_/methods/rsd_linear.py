# RSD ablation: a linear layer instead of the projector.
method = dict(type='RSDDistiller', projector=dict(type='LinearProjector', bias=False))
