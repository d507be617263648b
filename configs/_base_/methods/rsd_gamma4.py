# RSD ablation: a projector with expansion 4 (gamma in the paper, where it is 2).
method = dict(type='RSDDistiller', projector=dict(type='RSDProjector', expansion=4))
