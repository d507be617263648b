# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Models in configs: inline, or by reference to another config file."""

import contextlib
import copy
import difflib
import importlib.util
import inspect
import os
from typing import Any, Dict, Iterable, NamedTuple, Optional, Union

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .checkpoint import first_process_first
from .model_index import find_classifier

#: The options of a ``student`` or ``teacher`` dict that are not the model's own.
REFERENCE_OPTIONS = ('cfg_path', 'pretrained', 'checkpoint')


class ModelReference(NamedTuple):
    """What a ``student`` or ``teacher`` dict of a config refers to.

    Attributes:
        model (dict): The config of the model itself, with its data preprocessor
            if one is known.
        checkpoint (str, optional): The weights to load.
        origin (str): Where the model comes from, for messages.
        loads_bgr (bool, optional): Whether the images that its data preprocessor
            is written for come in BGR, as from MMPretrain's ``LoadImageFromFile``,
            or in RGB, as from CIFAR. None if that is not known, or if they are
            those of the run.
    """

    model: Dict[str, Any]
    checkpoint: Optional[str]
    origin: str
    loads_bgr: Optional[bool] = None


def resolve_model(cfg: Dict[str, Any], role: str, run_preprocessor: Optional[dict] = None) -> ModelReference:
    """Resolve a ``student`` or ``teacher`` dict.

    Two forms are taken. An inline model, ``dict(type='ImageClassifier', ...)``,
    or a reference, ``dict(cfg_path=..., pretrained=False, checkpoint=None,
    **changes)``, with ``cfg_path`` a config of MMPretrain
    (``'mmpretrain::resnet/resnet18_8xb32_in1k.py'``), a name of its model index
    (``'mmpretrain::resnet18_8xb32_in1k'``, which tells apart the several weights
    that some configs have) or any config file, whose ``model`` is taken,
    ``changes`` being merged into it. Both accept ``checkpoint``.

    Args:
        cfg (dict): The dict.
        role (str): ``student`` or ``teacher``, for messages.
        run_preprocessor (dict, optional): The data preprocessor that the run's
            config states. It comes before that of the referred file, and after
            one given in ``cfg`` itself.

    Returns:
        ModelReference: The model's config, its weights, its origin.

    Raises:
        ValueError: If the dict has neither form, if the file is missing or has no
            ``model``, or if no published weights are known for it.
    """
    if not isinstance(cfg, dict) or ('type' in cfg) == ('cfg_path' in cfg):
        raise ValueError(
            f"{role}: expected a dict with either 'type' (an inline model) or 'cfg_path' (a config file, "
            f"'mmpretrain::resnet/resnet18_8xb32_in1k.py' for example), received {_summary(cfg)}."
        )
    changes = copy.deepcopy(dict(cfg))
    checkpoint = changes.pop('checkpoint', None)
    loads_bgr = None
    if 'type' in changes:
        model = ConfigDict(changes)
        origin = str(getattr(model.type, '__name__', model.type))
    else:
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
        if published:
            checkpoint = file.get('model_path')
        if 'to_rgb' not in changes.get('data_preprocessor', {}):
            loads_bgr = gives_bgr(file)
        if 'data_preprocessor' in file:
            file.model.setdefault('data_preprocessor', file.data_preprocessor)
        whole = Config(dict(model=file.model))
        try:
            whole.merge_from_dict(dict(model=changes))
        except TypeError as error:
            raise ValueError(f'{role}: the changes do not fit the model of {path!r}: {error}') from None
        model, origin = whole.model, path
        model.setdefault('_scope_', file.get('default_scope'))
    referred_without = 'cfg_path' in cfg and cfg.get('pretrained') is False
    if model.get('pretrained') is True and (checkpoint is not None or referred_without):
        model['pretrained'] = False  # timm would download weights that are replaced, or that are not wanted
    if run_preprocessor is not None and 'data_preprocessor' not in cfg:
        model['data_preprocessor'] = copy.deepcopy(run_preprocessor)
        loads_bgr = None
    if model.get('_scope_') is None:
        model.pop('_scope_', None)
        current = DefaultScope.get_current_instance()
        if current is None or current.scope_name == 'mmengine':
            model['_scope_'] = 'mmpretrain'
    return ModelReference(model, checkpoint, origin, loads_bgr)


def gives_bgr(file: Config) -> Optional[bool]:
    """Whether a config's images come from files, which are read as BGR, or as RGB arrays (CIFAR); None if unsaid."""
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
            model = find_classifier(name, role)
            cfg = model.config
            cfg.model_path = model.weights
        else:
            cfg = get_config(path, pretrained=published)
    except FileNotFoundError:
        raise ValueError(f'{role}: {package} has no config {name!r}{_suggest(name, package)}.') from None
    except AssertionError:  # its entry in the model index has no weights
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
    """Build the model of a reference; an unknown option is an error that names the known ones."""
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


def build_part(cfg: Union[dict, nn.Module], where: str, **inferred: Any) -> nn.Module:
    """Build a loss or a projector from its config.

    Args:
        cfg (dict): The config; a module that is built already is returned as it is.
        where (str): Where it stands in the config, for messages.
        **inferred: Values for those options that ``cfg`` leaves out.

    Raises:
        ValueError: For an unknown type or option; the known ones are named.
    """
    if isinstance(cfg, nn.Module):
        return cfg
    cfg = {**inferred, **cfg}
    kind = cfg.pop('type', None)
    cls = _part_class(kind)
    if cls is None:
        raise ValueError(
            f'{where}: no module is registered as {kind!r}. If it is your own, import its file with '
            'custom_imports in the config.'
        )
    check_options(cls, cfg, where)
    return cls(**cfg)


def _part_class(kind: Any) -> Any:
    return kind if inspect.isclass(kind) else MODELS.get(kind) if kind else None


def takes_option(part: Union[dict, nn.Module], option: str) -> bool:
    """Whether a part takes an option, as far as its class tells."""
    cls = _part_class(part.get('type')) if isinstance(part, dict) else type(part)
    if cls is None:
        return True
    parameters = inspect.signature(cls).parameters
    return option in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def inferred_options(cfg: Union[dict, nn.Module, None], **known: Any) -> Dict[str, Any]:
    """Those of the known values that the class of a config takes as options."""
    cls = _part_class(cfg.get('type')) if isinstance(cfg, dict) else None
    if cls is None:
        return {}
    parameters = inspect.signature(cls).parameters
    return {name: value for name, value in known.items() if name in parameters}


def check_options(cls: type, options: Iterable[str], where: str) -> None:
    """Refuse options that a class does not take, naming those that it does."""
    for option in options:
        if not takes_option(dict(type=cls), option):
            raise ValueError(unknown_option(where, cls.__name__, option, inspect.signature(cls).parameters))


def unknown_option(where: str, name: str, option: str, known: Iterable[str]) -> str:
    """The message for an option that does not exist."""
    known = list(known)
    close = difflib.get_close_matches(option, known, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    return f'{where}: {name} has no option {option!r}{hint}. It takes: {", ".join(known)}.'


def _summary(cfg: Any) -> str:
    if not isinstance(cfg, dict):
        return repr(cfg)
    return f'a dict with the keys {", ".join(map(repr, cfg)) or "(none)"}'


def student_config(cfg: Config) -> Dict[str, Any]:
    """The model that a run's config is about: the student of a distiller, or the model itself.

    Args:
        cfg (Config): The whole config of a run.

    Returns:
        dict: The config of a plain model, with its data preprocessor.
    """
    preprocessor = cfg.model.get('data_preprocessor', cfg.get('data_preprocessor'))
    if 'student' not in cfg.model:
        return cfg.model
    return resolve_model(cfg.model.student, 'student', preprocessor).model


def unwrap(model: Any) -> Any:
    """The model itself, without DDP around it."""
    return model.module if is_model_wrapper(model) else model
