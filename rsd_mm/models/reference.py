# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the ``student`` and ``teacher`` of a config refer to: an inline model, or one of another config file."""

import contextlib
import copy
import difflib
import importlib.util
import os
from typing import Any, Dict, NamedTuple, Optional

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from rsd_mm.utils.checkpoint import first_process_first
from rsd_mm.utils.model_index import index_entry

#: The options of a ``student`` or ``teacher`` dict that are not the model's own.
REFERENCE_OPTIONS = ('cfg_path', 'pretrained', 'checkpoint')


class ModelReference(NamedTuple):
    """What a ``student`` or ``teacher`` dict refers to.

    Attributes:
        model (dict): The model's config, with its data preprocessor if known.
        checkpoint (str, optional): The weights to load.
        origin (str): Where the model comes from, for messages.
        loads_bgr (bool, optional): Whether the images that its data preprocessor is written for are BGR, as from
            MMPretrain's ``LoadImageFromFile``, or RGB, as from CIFAR. None if unknown, or if they are those of the run.
    """

    model: Dict[str, Any]
    checkpoint: Optional[str]
    origin: str
    loads_bgr: Optional[bool] = None


def resolve_model(cfg: Dict[str, Any], role: str, run_preprocessor: Optional[dict] = None) -> ModelReference:
    """Resolve a ``student`` or ``teacher`` dict.

    It is an inline model, ``dict(type='ImageClassifier', ...)``, or a reference, ``dict(cfg_path=..., pretrained=False,
    checkpoint=None, **changes)``. ``cfg_path`` is a config of MMPretrain
    (``'mmpretrain::resnet/resnet18_8xb32_in1k.py'``), a name of its model index (``'mmpretrain::resnet18_8xb32_in1k'``,
    which is unique where a config has several weights) or any config file; ``changes`` are merged into its ``model``.
    Both forms take ``checkpoint``.

    Args:
        cfg (dict): The dict. Not changed.
        role (str): ``student`` or ``teacher``, for messages.
        run_preprocessor (dict, optional): The data preprocessor of the run's config. It takes precedence over that of
            the file, but not over one in ``cfg`` itself.

    Raises:
        ValueError: If the dict has neither form, if the file is missing or has no ``model``, or if no published weights
            are known for it.
    """
    if not isinstance(cfg, dict) or ('type' in cfg) == ('cfg_path' in cfg):
        raise ValueError(
            f"{role}: expected a dict with either 'type' (an inline model) or 'cfg_path' (a config file, "
            f"'mmpretrain::resnet/resnet18_8xb32_in1k.py' for example), received {_summary(cfg)}."
        )
    options = copy.deepcopy(dict(cfg))
    model, checkpoint, origin, loads_bgr = (_inline if 'type' in cfg else _from_file)(options, role)
    unwanted = 'cfg_path' in cfg and cfg.get('pretrained') is False
    if model.get('pretrained') is True and (checkpoint is not None or unwanted):
        model['pretrained'] = False  # timm would download weights that are replaced or unwanted.
    if run_preprocessor is not None and 'data_preprocessor' not in cfg:
        model['data_preprocessor'] = copy.deepcopy(run_preprocessor)
        loads_bgr = None
    if model.get('_scope_') is None:
        model.pop('_scope_', None)
        current = DefaultScope.get_current_instance()
        if current is None or current.scope_name == 'mmengine':
            model['_scope_'] = 'mmpretrain'
    return ModelReference(model, checkpoint, origin, loads_bgr)


def _inline(options: Dict[str, Any], role: str) -> ModelReference:
    checkpoint = options.pop('checkpoint', None)
    model = ConfigDict(options)
    return ModelReference(model, checkpoint, str(getattr(model.type, '__name__', model.type)))


def _from_file(changes: Dict[str, Any], role: str) -> ModelReference:
    checkpoint = changes.pop('checkpoint', None)
    path, pretrained = changes.pop('cfg_path'), changes.pop('pretrained', False)
    if not isinstance(pretrained, bool):
        raise ValueError(
            f"{role}: with 'cfg_path', pretrained is True (the published weights) or False, received "
            f"{pretrained!r}. For a file of weights, use 'checkpoint'."
        )
    published = pretrained and checkpoint is None
    file = _load_config(path, published, role)
    if 'model' not in file:
        raise ValueError(f"{role}: the config {path!r} has no 'model'.")
    if 'data_preprocessor' in file:
        file.model.setdefault('data_preprocessor', file.data_preprocessor)
    whole = Config(dict(model=file.model))
    try:
        whole.merge_from_dict(dict(model=changes))
    except TypeError as error:
        raise ValueError(f'{role}: the changes do not fit the model of {path!r}: {error}') from None
    whole.model.setdefault('_scope_', file.get('default_scope'))
    loads_bgr = gives_bgr(file) if 'to_rgb' not in changes.get('data_preprocessor', {}) else None
    return ModelReference(whole.model, file.get('model_path') if published else checkpoint, path, loads_bgr)


def student_config(cfg: Config) -> Dict[str, Any]:
    """Return the student of a distiller's config, with the run's data preprocessor; of another config the model."""
    preprocessor = cfg.model.get('data_preprocessor', cfg.get('data_preprocessor'))
    if 'student' not in cfg.model:
        return cfg.model
    return resolve_model(cfg.model.student, 'student', preprocessor).model


def gives_bgr(file: Config) -> Optional[bool]:
    """Whether a config's images come from files, read as BGR, or as RGB arrays (CIFAR); None if it has no pipeline."""
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        pipeline = ((file.get(field) or {}).get('dataset') or {}).get('pipeline')
        if pipeline:
            return any(
                kind in str(step.get('type')) for step in pipeline for kind in ('LoadImageFromFile', 'LoadCheckedImage')
            )
    return None


def _load_config(path: str, published: bool, role: str) -> Config:
    package, separator, name = path.partition('::')
    if not separator:
        path = os.path.expanduser(path)
        if not os.path.isfile(path):
            raise ValueError(
                f'{role}: the config {path!r} is not a file (looked in {os.path.abspath(path)!r}). For one of '
                "MMPretrain's own, write cfg_path='mmpretrain::...'."
            )
        if published:
            raise ValueError(
                f'{role}: pretrained=True finds published weights for the configs of a package '
                f"('mmpretrain::...'), not for the file {path!r}. Give 'checkpoint' instead."
            )
        return Config.fromfile(path)
    if importlib.util.find_spec(package) is None:
        # mmengine would install the package, which may replace the user's torch or mmcv.
        raise ValueError(f'{role}: the config {path!r} is of the package {package!r}, which is not installed.')
    try:
        if package == 'mmpretrain' and not name.endswith('.py'):
            model = index_entry(name, role)
            cfg = model.config
            cfg.model_path = model.weights
        else:
            cfg = get_config(path, pretrained=published)
    except FileNotFoundError:
        raise ValueError(f'{role}: {package} has no config {name!r}{_suggest(name, package)}.') from None
    except AssertionError:  # Its entry in the model index has no weights.
        cfg = Config()
    if published and cfg.get('model_path') is None:
        raise ValueError(
            f"{role}: pretrained=True, but {package}'s model index gives no weights for {name!r}. "
            "Give 'checkpoint', a path or a URL."
        )
    return cfg


def _suggest(name: str, package: str) -> str:
    module = importlib.util.find_spec(package)
    roots = list(module.submodule_search_locations or []) if module else []
    known = []
    for root in roots:
        configs = os.path.join(root, '.mim', 'configs')
        for folder, _, files in os.walk(configs):
            known += [os.path.relpath(os.path.join(folder, file), configs) for file in files if file.endswith('.py')]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f', did you mean {close[0]!r}?' if close else ''


def build_model(reference: ModelReference, role: str) -> nn.Module:
    """Build the model of a reference; timm's weights are downloaded by the first process of each machine.

    Raises:
        ValueError: For an unknown option, or something that is no model.
    """
    downloads = reference.model.get('pretrained') is True  # timm's
    try:
        with first_process_first() if downloads else contextlib.nullcontext():
            model: Any = MODELS.build(copy.deepcopy(reference.model))
    except TypeError as error:
        raise ValueError(
            f'{role}: {reference.origin} cannot be built: {error}. Besides '
            f'{", ".join(REFERENCE_OPTIONS)}, the options of this dict are those of the model.'
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(f'{role}: {reference.origin} builds a {type(model).__name__}, not a model.')
    return model


def _summary(cfg: Any) -> str:
    if not isinstance(cfg, dict):
        return repr(cfg)
    return f'a dict with the keys {", ".join(map(repr, cfg)) or "(none)"}'
