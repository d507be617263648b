# RSD ablation: invariance only, no decorrelation.
method = dict(type='RSDDistiller', loss=dict(kappa=0.0))
