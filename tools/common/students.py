# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Trained students of a distillation, on its validation images."""

import argparse
from typing import Any, Iterator, List, Sequence, Tuple

from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor
from tqdm import tqdm

from common.configs import check_data_folders, check_distillation, read_config
from rsd_mm.models.distillers import Distiller, Tap
from rsd_mm.utils import load_strictly
from rsd_mm.visualization import read_features


def load_distillation(args: argparse.Namespace) -> Tuple[Distiller, Any]:
    """Build the distiller of ``args.config``, with its teacher's weights, and the validation data loader.

    Raises:
        SystemExit: If the config is missing, is no distillation, or its data is missing.
    """
    cfg = read_config(args.config, args.cfg_options)
    check_distillation(cfg, args.config)
    check_data_folders(cfg, 'val_dataloader')
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    cfg.val_dataloader.setdefault('collate_fn', dict(type='default_collate'))
    return MODELS.build(cfg.model), Runner.build_dataloader(cfg.val_dataloader)


def student_features(
    model: Distiller, loader: Any, label: str, checkpoint: str, taps: Tuple[Sequence[Tap], Sequence[Tap]], images: int
) -> Iterator[Tuple[List[Tensor], List[Tensor], Tensor]]:
    """Load a student's weights, and yield :func:`read_features` of its taps and the teacher's under a progress bar."""
    load_strictly(model.student, checkpoint, 'student')
    with tqdm(total=images, desc=label, unit='image', disable=None) as bar:
        for own, taught, labels in read_features(model, loader, *taps, images):
            yield own, taught, labels
            bar.update(len(labels))
