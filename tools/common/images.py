# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The images that a config's model is for."""

from typing import Any

from mmengine.config import Config


def image_side(cfg: Config) -> int:
    """The side in pixels of the images that a config's model is evaluated at; 224 if its pipelines do not say.

    Args:
        cfg (Config): The whole config of a run, or of a published model.
    """
    # Without a crop or a resize in validation (CIFAR), images are as large as training crops them.
    for field in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        side: Any = None
        for step in ((cfg.get(field) or {}).get('dataset') or {}).get('pipeline') or ():
            if 'Crop' in str(step.get('type')) or step.get('type') == 'Resize':
                side = step.get('crop_size') or step.get('scale') or side
        if side:
            return int(side if isinstance(side, (int, float)) else side[0])
    return 224
