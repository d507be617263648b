# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Reading, checking and building the configs that tools are given."""

import copy
import inspect
import logging
import os.path as osp
from typing import Any, Optional

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import DATASETS


def read_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config, apply ``--cfg-options``, and enter its default scope.

    Raises:
        SystemExit: If the file does not exist.
    """
    if not osp.isfile(path):
        raise SystemExit(f'{path!r} is not a config file (looked in {osp.abspath(path)!r}).')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    return cfg


def check_distillation(cfg: Config, path: str) -> None:
    """Exit if the config is of a plain model.

    Raises:
        SystemExit: If the model has no teacher; the message names the file.
    """
    if 'teacher' not in cfg.model:
        raise SystemExit(
            f'{path!r} is not a distillation: its model has no teacher. Give the config of one, such as those in '
            'configs/rsd.'
        )


def check_data_folders(cfg: Config, *loaders: str) -> None:
    """Exit if a dataset is missing, before anything is built.

    Raises:
        SystemExit: If the folder of a dataset that cannot download itself does not
            exist; the message says where it was looked for and how to change it.
    """
    for field in loaders:
        dataset = (cfg.get(field) or {}).get('dataset', {})
        root, kind = dataset.get('data_root'), dataset.get('type')
        cls = DATASETS.get(kind) if isinstance(kind, str) else kind
        if not root or '://' in root or cls is None or 'download' in inspect.signature(cls).parameters:
            continue
        folder = osp.expanduser(root)
        if osp.isdir(folder) and not dataset.get('ann_file') and dataset.get('split'):
            # MMPretrain reads the images of a split from meta/SPLIT.txt, or else from the split's folder.
            if osp.isfile(osp.join(folder, 'meta', f'{dataset.split}.txt')):
                continue
            folder = osp.join(folder, dataset.get('data_prefix') or dataset.split)
        if not osp.isdir(folder):
            raise SystemExit(
                f'{field}: the folder {folder!r} of the dataset {dataset.type} does not exist (looked in '
                f'{osp.abspath(folder)!r}). Put or link the data there, or change it with '
                f'--cfg-options {field}.dataset.data_root=PATH.'
            )


def image_side(cfg: Config) -> int:
    """Return the side in pixels of the images that a config evaluates on, 224 if its pipelines do not say."""
    # Without a crop or resize in validation (CIFAR), images are as large as training crops them.
    for field in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        side: Any = None
        for step in ((cfg.get(field) or {}).get('dataset') or {}).get('pipeline') or ():
            if 'Crop' in str(step.get('type')) or step.get('type') == 'Resize':
                side = step.get('crop_size') or step.get('scale') or side
        if side:
            return int(side if isinstance(side, (int, float)) else side[0])
    return 224


def scale_schedule(cfg: Config, epochs: int) -> None:
    """Scale the schedule of a config to another number of epochs, in place."""
    factor = epochs / cfg.train_cfg.max_epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * factor)
    # A phase that has shrunk to nothing would be divided by its length.
    cfg.param_scheduler = [s for s in cfg.param_scheduler if s.get('begin', 0) < s.get('end', epochs)]
    cfg.train_cfg.max_epochs = epochs
    if epochs % cfg.train_cfg.get('val_interval', 1):
        cfg.train_cfg.val_interval = 1  # Validate the last epoch.


def build_with_random_weights(cfg: Config) -> BaseModel:
    """Build the distiller of a config without reading or downloading weights."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = copy.deepcopy(cfg.model)
    model.teacher.update(checkpoint=None, allow_random_weights=True)
    if {'pretrained', 'cfg_path'} & model.teacher.keys():
        model.teacher.pretrained = False
    model.setdefault('data_preprocessor', copy.deepcopy(cfg.get('data_preprocessor')))
    return MODELS.build(model)


def hide_warnings() -> None:
    """Hide the log's warnings, of random weights for example, in tools that print a table."""
    logging.disable(logging.WARNING)
