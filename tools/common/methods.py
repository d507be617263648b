# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A pair with another method, and its student without any."""

import copy
import os.path as osp

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS

from common.arguments import METHODS
from rsd_mm.utils.config import inferred_options, resolve_model


def with_method(pair: Config, name: str) -> Config:
    """Return the config of a pair with its method replaced by one of ``configs/_base_/methods``."""
    cfg = copy.deepcopy(pair)
    file = Config.fromfile(osp.join(METHODS, f'{name}.py'))
    # RSD's file is a base of the pairs, so it sets `model`.
    options = file.get('method') or file.model
    shared = {key: pair.model[key] for key in ('student', 'teacher', 'data_preprocessor') if key in pair.model}
    cfg.model = dict(copy.deepcopy(dict(options)), **shared)
    for term in cfg.model.get('terms', {}).values():
        if MODELS.get(term.loss.type) and inferred_options(dict(term.loss), num_samples=0):
            term.loss.num_samples = len(DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset)))
            # No more negatives than a small dataset has images.
            term.loss.negatives = min(term.loss.negatives, term.loss.num_samples)
    return cfg


def student_alone(pair: Config) -> Config:
    """Return the config of a pair with its student as the model."""
    cfg = copy.deepcopy(pair)
    preprocessor = cfg.model.get('data_preprocessor', cfg.get('data_preprocessor'))
    reference = resolve_model(cfg.model.student, 'student', preprocessor)
    cfg.model = reference.model
    if reference.checkpoint is not None:
        cfg.model.init_cfg = dict(type='Pretrained', checkpoint=reference.checkpoint)
    return cfg
