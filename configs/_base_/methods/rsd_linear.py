# An ablation of RSD: a linear adaptor in place of the projector.
method = dict(type='RSDDistiller', projector=dict(type='LinearProjector', bias=False))
