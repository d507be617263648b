# An ablation of RSD: invariance only, no decorrelation.
method = dict(type='RSDDistiller', loss=dict(kappa=0.0))
