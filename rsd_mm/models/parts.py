# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Building the losses and projectors of a config."""

import inspect
from typing import Any, Callable, Dict, Iterable, Tuple, Union

from mmengine.registry import MODELS
from torch import nn

from rsd_mm.utils.checks import unknown_option

#: What a class that declares nothing may take as ``**kwargs``, too.
_WIDTHS = ('in_channels', 'out_channels')


def build_part(cfg: Union[dict, nn.Module], where: str, **inferred: Any) -> nn.Module:
    """Build a loss or a projector.

    Args:
        cfg (dict): The config; a module is returned as it is.
        where (str): Its place in the config, for messages.
        **inferred: Values for options that ``cfg`` leaves out.

    Raises:
        ValueError: For an unknown type or option; names the known ones.
    """
    if isinstance(cfg, nn.Module):
        return cfg
    cfg = {**inferred, **cfg}
    kind = cfg.pop('type', None)
    cls = _class_of(dict(type=kind))
    if cls is None:
        raise ValueError(
            f'{where}: no module is registered as {kind!r}. If it is your own, import its file with '
            'custom_imports in the config.'
        )
    check_options(cls, cfg, where)
    return cls(**cfg)


def inferred_options(cfg: Union[dict, nn.Module, None], **known: Any) -> Dict[str, Any]:
    """Return those of the known values that a part has filled in: by its ``inferred``, else by signature."""
    cls = type(cfg) if isinstance(cfg, nn.Module) else _class_of(cfg)
    if cls is None:
        return {}
    names = getattr(cls, 'inferred', None)
    if names is None:
        names = [name for name in known if name in _WIDTHS and _accepts(cls, name)]
        names += inspect.signature(cls).parameters
    return {name: value for name, value in known.items() if name in names}


def arguments_of(loss: nn.Module) -> Tuple[str, ...]:
    """Return what a loss takes beside two representations: its ``takes``, else by the signature of ``forward``.

    The losses of mmrazor, and of users who derive from ``nn.Module``, declare nothing.
    """
    declared = getattr(loss, 'takes', None)
    return tuple(inspect.signature(loss.forward).parameters)[2:] if declared is None else declared


def check_options(cls: Callable[..., Any], options: Iterable[str], where: str) -> None:
    """Raise a ValueError for an option that a class does not take."""
    for option in options:
        if not _accepts(cls, option):
            name = getattr(cls, '__name__', str(cls))
            raise ValueError(unknown_option(where, name, option, inspect.signature(cls).parameters))


def _class_of(cfg: Any) -> Any:
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    return kind if inspect.isclass(kind) else MODELS.get(kind) if kind else None


def _accepts(cls: Callable[..., Any], option: str) -> bool:
    parameters = inspect.signature(cls).parameters
    return option in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
