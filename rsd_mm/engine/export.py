# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Export the student as a plain MMPretrain model: a config and a checkpoint that do not need this package."""

import copy
import os.path as osp
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from rsd_mm.models.reference import build_model, gives_bgr, resolve_model, student_config
from rsd_mm.utils.checkpoint import read_checkpoint, state_dict_of
from rsd_mm.utils.weights import load_strictly
from rsd_mm.version import __version__

#: What a plain student keeps of a run's config, besides the model: how it is tested, and the runtime.
_KEPT = (
    *('default_scope', 'data_preprocessor', 'test_dataloader', 'test_evaluator', 'test_cfg'),
    *('env_cfg', 'vis_backends', 'visualizer', 'log_level'),
)
_NOTE = """# A plain MMPretrain model, distilled with rsd_mm {version}; its weights are in {name}.pth:
#   from mmpretrain import ImageClassificationInferencer
#   ImageClassificationInferencer('{name}.py', '{name}.pth')('image.jpg')
"""
_RGB_NOTE = """# It was trained on a dataset of RGB images; image files are read as BGR.
# For them, set to_rgb=True in data_preprocessor.
"""


def plain_config(cfg: Config) -> Config:
    """Return the config of a run's student, for MMPretrain's own tools.

    Args:
        cfg (Config): The config of a distillation, or of a plain run.

    Returns:
        Config: Self-contained: without base files, weights of other files, or anything of this package except a dataset
        that the student was trained on.
    """
    model = copy.deepcopy(student_config(cfg))
    if not isinstance(model, dict):
        raise ValueError(f"The config's student is a {type(model).__name__}, not a config that can be written.")
    if model.get('pretrained') is True:
        model['pretrained'] = False
    for part in (model, model.get('backbone', {})):
        if isinstance(part.get('init_cfg'), dict) and part['init_cfg'].get('type') == 'Pretrained':
            part.pop('init_cfg')
    plain = {key: copy.deepcopy(cfg[key]) for key in _KEPT if cfg.get(key) is not None}
    plain['model'] = model
    plain['data_preprocessor'] = model.pop('data_preprocessor', None) or {}
    plain['default_hooks'] = dict(visualization=dict(type='VisualizationHook', enable=False))
    if 'test_dataloader' in plain:
        # As MMPretrain's tools do for every run.
        plain['test_dataloader'].setdefault('collate_fn', dict(type='default_collate'))
    return Config(plain)


def _distilled_from(cfg: Config) -> Dict[str, Any]:
    teacher = cfg.model.get('teacher')
    if teacher is None:
        return {}
    return dict(
        teacher=str(teacher.get('cfg_path') or teacher.get('model_name') or teacher.get('type')),
        teacher_checkpoint=str(teacher.get('checkpoint') or ('published' if teacher.get('pretrained') else 'none')),
        method=cfg.model.type,
        losses=_builtin({key: cfg.model[key] for key in ('loss', 'projector', 'terms') if cfg.model.get(key)}),
        dataset=str(((cfg.get('train_dataloader') or {}).get('dataset') or {}).get('type')),
    )


def _builtin(value: Any) -> Any:
    """Convert to Python's own types, which load without running code."""
    if isinstance(value, dict):
        return {str(key): _builtin(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_builtin(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    return float(value) if hasattr(value, '__float__') else str(value)


def export_student(
    cfg: Config,
    state: Mapping[str, Tensor],
    folder: str,
    name: str = 'student',
    metrics: Optional[Mapping[str, float]] = None,
    **meta: Any,
) -> Tuple[str, str]:
    """Write a student as ``NAME.pth`` and ``NAME.py``, and check that they fit each other.

    ``NAME.pth`` has the keys of the plain model, for MMPretrain, for ``init_cfg=dict(type='Pretrained', ...)`` and, if
    the student is a ``TimmClassifier``, for ``timm.create_model(checkpoint_path=...)``. Its ``meta`` has the config,
    the metrics and what the student was distilled from.

    Args:
        cfg (Config): The config of the run.
        state (Mapping[str, Tensor]): Weights of the distiller or of the student.
        folder (str): The output folder.
        name (str): Name of the files. Defaults to ``student``.
        metrics (Mapping[str, float], optional): Metrics of these weights.
        **meta: Further entries of ``meta``, such as ``epoch``.

    Returns:
        Tuple[str, str]: The paths of the checkpoint and of the config.

    Raises:
        CheckpointError: If the weights do not fit the student.
    """
    plain = plain_config(cfg)
    note = _NOTE.format(version=__version__, name=name)
    text = note + (_RGB_NOTE if gives_bgr(plain) is False else '') + plain.pretty_text
    weights, config = osp.join(folder, f'{name}.pth'), osp.join(folder, f'{name}.py')
    with open(config, 'w', encoding='utf-8') as file:
        file.write(text)
    # The keys of the plain model: MMPretrain's wrappers of timm models omit a prefix.
    state = load_exported(config, name, state).state_dict()
    meta.update(
        rsd_mm_version=__version__,
        cfg=text,
        distilled_from=_distilled_from(cfg),
        metrics=_builtin(dict(metrics or {})),
    )
    torch.save(dict(meta=meta, state_dict={key: x.detach().cpu().clone() for key, x in state.items()}), weights)
    load_exported(config, weights)
    return weights, config


def load_exported(config: str, weights: str, state: Optional[Mapping[str, Tensor]] = None) -> nn.Module:
    """Build the model of an exported config and load its weights strictly, from a file or from ``state``."""
    model = build_model(resolve_model(dict(cfg_path=config), 'student'), 'student')
    load_strictly(model, weights, 'student', state)
    return model.eval()


def read_training_checkpoint(path: str) -> Tuple[Dict[str, Tensor], Dict[str, float], Dict[str, Any]]:
    """Return the student's weights in a training checkpoint, their metrics, and ``epoch``, ``iter``, ``dataset_meta``.

    With averaged weights (EMA), these are the averages, which mmengine tests with and saves as ``state_dict``. Only a
    best checkpoint has metrics: others are saved before validation.

    Raises:
        CheckpointError: If it cannot be read, or has no weights.
    """
    checkpoint = read_checkpoint(path)
    meta = {key: checkpoint.get('meta', {}).get(key) for key in ('epoch', 'iter', 'dataset_meta')}
    hub = checkpoint.get('message_hub') or {}
    info = hub.get('runtime_info', {}) if isinstance(hub, dict) else {}
    metrics = {}
    if info.get('best_ckpt') and osp.basename(info['best_ckpt']) == osp.basename(path):
        metrics = {
            key[len('val/') :]: float(value.current())
            for key, value in hub.get('log_scalars', {}).items()
            if key.startswith('val/') and '/' in key[len('val/') :] and isinstance(value, HistoryBuffer)
        }
    return state_dict_of(checkpoint, path), metrics, {key: value for key, value in meta.items() if value is not None}
