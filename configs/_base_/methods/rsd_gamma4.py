# An ablation of RSD: expansion 4 of the projector (the paper calls it gamma and uses 2).
method = dict(type='RSDDistiller', projector=dict(type='RSDProjector', expansion=4))
