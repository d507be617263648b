# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the process that forked.py forks from has imported and parsed."""

from pathlib import Path

import fast
import mmpretrain.datasets  # noqa: F401
import mmpretrain.models  # noqa: F401
import sklearn.datasets  # noqa: F401

import rsd_mm  # noqa: F401

for name in ('resnet_digits', 'resnet_to_vit_digits'):
    fast.parse_once(Path(__file__).resolve().parent.parent / f'configs/quickstart/{name}.py')
fast.freeze()
