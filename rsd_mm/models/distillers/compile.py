# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""torch.compile for networks that are tapped."""

from typing import Any, Dict, Iterable, List, Union

import torch
from torch import nn


def compile_options(value: Union[bool, dict], where: str) -> Dict[str, Any]:
    """Return the arguments of ``torch.compile`` for the option ``compile`` of a config; empty if it is off.

    Args:
        value (bool | dict): False, True (torch's defaults), or the arguments.
        where (str): Its place in the config, for messages.

    Raises:
        ValueError: If it is something else, or if torch does not take the arguments.
    """
    if value is False or value is None:
        return {}
    if value is not True and not isinstance(value, dict):
        raise ValueError(
            f"{where}: compile is True, False or a dict of torch.compile's arguments, such as "
            f"dict(mode='max-autotune'); received {value!r}."
        )
    options: Dict[str, Any] = dict(backend='inductor') if value is True else {'backend': 'inductor', **value}
    try:
        torch.compile(torch.zeros_like, **options)  # Checks the arguments; nothing is compiled before a call.
    except Exception as error:
        raise ValueError(f'{where}: torch.compile does not take compile={value!r}: {error}') from error
    return options


def compile_around(model: nn.Module, sources: Iterable[str], options: Dict[str, Any]) -> List[str]:
    """Compile the largest parts of a model that contain no tapped module.

    A compiled graph keeps the forward hooks that it was traced with, so taps have to stay outside. Parts are compiled
    in place: the keys of the state dict do not change, and copies of the model are not compiled.

    Args:
        model (nn.Module): The network.
        sources (Iterable[str]): Paths of the tapped modules.
        options (Dict[str, Any]): From :func:`compile_options`.

    Returns:
        List[str]: The paths of the parts.
    """
    sources = list(sources)
    parts = []
    waiting = list(model.named_children())
    while waiting:
        path, module = waiting.pop(0)
        containers = nn.ModuleList, nn.ModuleDict  # which are not called themselves
        if isinstance(module, containers) or any(source.startswith(f'{path}.') for source in sources):
            waiting += [(f'{path}.{name}', child) for name, child in module.named_children()]
        elif any(True for _ in module.children()):  # a single layer gains nothing
            module.compile(**options)
            parts.append(path)
    return parts
