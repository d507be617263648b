# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The student as a plain MMPretrain model: a checkpoint and a config that need nothing of this package."""

import copy
import os.path as osp
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from rsd_mm.version import __version__

from .checkpoint import read_checkpoint, state_dict_of
from .config import build_model, gives_bgr, resolve_model, student_config
from .weights import load_strictly

#: What of a run's config a plain student keeps: how it is tested, and the runtime.
_KEPT = (
    'default_scope',
    'data_preprocessor',
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'env_cfg',
    'vis_backends',
    'visualizer',
    'log_level',
)
_NOTE = """# A plain MMPretrain model, made by distillation (rsd_mm {version}); its weights are in {name}.pth:
#   from mmpretrain import ImageClassificationInferencer
#   ImageClassificationInferencer('{name}.py', '{name}.pth')('image.jpg')
"""
_RGB_NOTE = """# The dataset that it was trained on gives RGB images; image files are read as BGR.
# For them, set to_rgb=True in data_preprocessor.
"""


def plain_config(cfg: Config) -> Config:
    """The config of a run's student alone, with which MMPretrain's own tools test and use it.

    Args:
        cfg (Config): The config of a distillation, or of a plain run.

    Returns:
        Config: Self-contained: no base files, nothing of this package but a
        dataset of it if it was trained on one, and no weights of other files.
    """
    model = copy.deepcopy(student_config(cfg))
    if not isinstance(model, dict):
        raise ValueError(f"The config's student is a {type(model).__name__}, not a config to be written down.")
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
        # The tools fill this in for every run.
        plain['test_dataloader'].setdefault('collate_fn', dict(type='default_collate'))
    return Config(plain)


def plain_checkpoint(
    cfg: Config, state: Mapping[str, Tensor], text: str, metrics: Optional[Mapping[str, float]] = None, **meta: Any
) -> Dict[str, Any]:
    """A student's weights, with what they were distilled from.

    Args:
        cfg (Config): The config of the run.
        state (Mapping[str, Tensor]): The student's weights.
        text (str): The student's config.
        metrics (Mapping[str, float], optional): What was measured of these weights.
        **meta: More of it, for example ``epoch``.
    """
    teacher = cfg.model.get('teacher')
    distilled_from: Dict[str, Any] = {}
    if teacher is not None:
        distilled_from = dict(
            teacher=str(teacher.get('cfg_path') or teacher.get('model_name') or teacher.get('type')),
            teacher_checkpoint=str(teacher.get('checkpoint') or ('published' if teacher.get('pretrained') else 'none')),
            method=cfg.model.type,
            losses=_plain({key: cfg.model[key] for key in ('loss', 'projector', 'terms') if cfg.model.get(key)}),
            dataset=str(((cfg.get('train_dataloader') or {}).get('dataset') or {}).get('type')),
        )
    meta.update(
        rsd_mm_version=__version__, cfg=text, distilled_from=distilled_from, metrics=_plain(dict(metrics or {}))
    )
    return dict(meta=meta, state_dict={key: value.detach().cpu().clone() for key, value in state.items()})


def _plain(value: Any) -> Any:
    """Of Python's own types only, which load anywhere without running code."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
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
    """Write a student as ``NAME.pth`` and ``NAME.py``, and see that they fit each other.

    ``NAME.pth`` has the keys of the plain model, so that MMPretrain, an
    ``init_cfg=dict(type='Pretrained', ...)``, and for a ``TimmClassifier``
    ``timm.create_model(checkpoint_path=...)`` take it.

    Args:
        cfg (Config): The config of the run.
        state (Mapping[str, Tensor]): Weights, of the distillation or of the student.
        folder (str): Where to.
        name (str): The files' name. Defaults to ``student``.
        metrics (Mapping[str, float], optional): What was measured of these weights.
        **meta: What else to keep in the checkpoint's ``meta``.

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
    # In the names of the plain model: MMPretrain's wrappers of timm's models leave a prefix out.
    state = load_exported(config, name, state).state_dict()
    torch.save(plain_checkpoint(cfg, state, text, metrics, **meta), weights)
    load_exported(config, weights)
    return weights, config


def load_exported(config: str, weights: str, state: Optional[Mapping[str, Tensor]] = None) -> nn.Module:
    """Build the model of an exported config and load its weights, strictly, from a file or as they are given."""
    model = build_model(resolve_model(dict(cfg_path=config), 'student'), 'student')
    load_strictly(model, weights, 'student', state)
    return model.eval()


def read_training_checkpoint(path: str) -> Tuple[Dict[str, Tensor], Dict[str, float], Dict[str, Any]]:
    """The student's weights in a training checkpoint, what was measured of them, and where training stood.

    Averaged weights (EMA) are what mmengine keeps under ``state_dict``, as it
    tests with them. Metrics are known of a best checkpoint only: others are
    saved before their epoch is validated.

    Raises:
        CheckpointError: If it can't be read, or holds no weights.
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
