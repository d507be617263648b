# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Loading weights into a model, strictly."""

import sys
from typing import Any, Dict, List, Mapping, Optional

from torch import Tensor, nn

from .checkpoint import CheckpointError, read_checkpoint, state_dict_of


def load_strictly(
    model: nn.Module, source: str, name: str = 'model', state: Optional[Mapping[str, Tensor]] = None
) -> None:
    """Load a checkpoint into a model; every key and shape has to fit.

    Args:
        model (nn.Module): The model, changed in place. A model of timm takes files of older versions of timm as well.
        source (str): See :func:`read_checkpoint`.
        name (str): What errors call the model, for example ``teacher``.
        state (Mapping[str, Tensor], optional): The weights, if already read from ``source``. Defaults to None.

    Raises:
        CheckpointError: If the file cannot be read, or if a key is missing, unexpected or of another shape; lists them.
    """
    state = _rename_for(model, state_dict_of(read_checkpoint(source) if state is None else state, source))
    other_shapes: List[str] = []
    try:  # A model's own hooks may convert older keys, or resize position embeddings.
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch refuses other shapes even if not strict.
        own = model.state_dict()
        other_shapes = [
            f'{key} ({_show(state[key])} in the file, {_show(own[key])} in the {name})'
            for key in own
            if key in state and state[key].shape != own[key].shape
        ]
        if not other_shapes:
            raise CheckpointError(f'Checkpoint {source!r} does not fit the {name}: {error}') from None
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    problems = {'of another shape': other_shapes, 'missing': missing, 'unexpected': unexpected}
    lines = [f'  {len(keys)} {kind}: {_shorten(keys)}' for kind, keys in problems.items() if keys]
    if lines:
        raise CheckpointError(
            f'Checkpoint {source!r} does not fit the {name} ({type(model).__name__}):\n' + '\n'.join(lines) + '\n'
            f'Give the checkpoint of this very architecture and class count, or change the {name} to match it.'
        )


def is_wrapper(model: nn.Module) -> bool:
    """Whether it is MMPretrain's wrapper around a model of timm or transformers, which it calls ``model``."""
    return hasattr(model, '_add_state_dict_prefix')


def use_nested_keys(model: nn.Module) -> None:
    """Make the state dict of a wrapper (:func:`is_wrapper`) correct within another model.

    The wrapper's hooks leave ``model.`` out of the keys, which only works for a model that is not part of another:
    within one, saving ignores them, and loading adds ``model.`` twice and drops the keys of all other parts.
    """
    # Private to MMPretrain and torch, which have no public way to remove these hooks.
    if is_wrapper(model):
        wrapper: Any = model
        for hooks, own in (
            (model._state_dict_hooks, wrapper._remove_state_dict_prefix),
            (model._load_state_dict_pre_hooks, wrapper._add_state_dict_prefix),
        ):
            for key in [key for key, hook in hooks.items() if getattr(hook, 'hook', hook) == own]:
                del hooks[key]


def _rename_for(model: nn.Module, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the keys for a model of timm or transformers: without ``model.``, and as in the installed timm.

    timm's modules have a function that renames the keys of older versions of their models (from 0.9 on, for example,
    Swin's downsampling is part of the next stage).
    """
    hooked = is_wrapper(model) and not all(key.startswith('model.') for key in model.state_dict())
    if hooked and all(key.startswith('model.') for key in state):  # of a distillation's student
        state = {key[len('model.') :]: value for key, value in state.items()}
    inner = getattr(model, 'model', None)
    if not type(inner).__module__.startswith('timm.') or state.keys() == model.state_dict().keys():
        return state
    rename = getattr(sys.modules[type(inner).__module__], 'checkpoint_filter_fn', None)
    return state if rename is None else dict(rename(state, inner))


def _show(value: Tensor) -> str:
    return f'({", ".join(map(str, value.shape))})'


def _shorten(keys: List[str], most: int = 10) -> str:
    rest = f', ... and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + rest
