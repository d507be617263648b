# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Temporary."""

from typing import Any

from mmengine.config import Config
from mmengine.model import is_model_wrapper

from rsd_mm.models.parts import inferred_options  # noqa: F401
from rsd_mm.models.reference import build_model, gives_bgr, resolve_model, student_config  # noqa: F401


def image_side(cfg: Config) -> int:
    for field in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        side: Any = None
        for step in ((cfg.get(field) or {}).get('dataset') or {}).get('pipeline') or ():
            if 'Crop' in str(step.get('type')) or step.get('type') == 'Resize':
                side = step.get('crop_size') or step.get('scale') or side
        if side:
            return int(side if isinstance(side, (int, float)) else side[0])
    return 224


def unwrap(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model
