# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Taps: where in a network a representation is read.

A tap is written in a config as

- ``'embedding'``: the input of the layer that computes the logits, the vector
  that the literature calls penultimate or pre-logits;
- ``'logits'``: the output of that layer;
- any other string: the path of a module, whose output is read;
- ``dict(type='ModuleInputs' | 'ModuleOutputs', source=PATH, data_idx=None)``: the
  input or output of a module in mmrazor's words, of which ``data_idx`` selects
  one where there are several.

Reading happens through forward hooks that exist for one forward only, so that
the forward which computes the task loss serves the distillation as well, and a
model carries no trace of having been tapped.
"""

import difflib
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Type, Union

from torch import Tensor, nn

_KINDS = ('ModuleInputs', 'ModuleOutputs')


class Tap(NamedTuple):
    """A place in a network.

    Attributes:
        name (str): How the config calls it.
        source (str): The path of the module.
        inputs (bool): Whether the module's input is read, rather than its output.
        data_idx (int, optional): Which of several inputs or outputs.
        channels (int, optional): The width of what is read, where the module
            tells it.
    """

    name: str
    source: str
    inputs: bool
    data_idx: Optional[int] = None
    channels: Optional[int] = None

    def __str__(self) -> str:
        return f'{self.name} ({"input" if self.inputs else "output"} of {self.source!r})'


def resolve_tap(model: nn.Module, spec: Union[str, dict], role: str) -> Tap:
    """Find the place that a tap of a config names.

    Args:
        model (nn.Module): The network.
        spec (str | dict): The tap, see the module's docstring.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If there is no such place, or if the classifier of the
            network, which ``embedding`` and ``logits`` need, can't be told.
    """
    if isinstance(spec, dict):
        if spec.get('type') not in _KINDS or not isinstance(spec.get('source'), str):
            raise ValueError(
                f"{role}: a tap given as a dict is dict(type='ModuleInputs' | 'ModuleOutputs', "
                f'source=PATH, data_idx=None), received {dict(spec)!r}.'
            )
        unknown = set(spec) - {'type', 'source', 'data_idx'}
        if unknown:
            raise ValueError(f'{role}: a tap has no option {sorted(unknown)[0]!r}. It takes: type, source, data_idx.')
        source, inputs, data_idx = spec['source'], spec['type'] == 'ModuleInputs', spec.get('data_idx')
        name = source
    elif spec in ('embedding', 'logits'):
        source, inputs, data_idx, name = find_classifier(model, role), spec == 'embedding', None, spec
    elif isinstance(spec, str):
        source, inputs, data_idx, name = spec, False, None, spec
    else:
        raise ValueError(f'{role}: a tap is a string or a dict, received {spec!r}.')
    modules = dict(model.named_modules())
    if not source or source not in modules:
        close = difflib.get_close_matches(source, modules, n=3, cutoff=0.4)
        raise ValueError(
            f"{role}: {type(model).__name__} has no module {source!r} to read. Allowed are 'embedding', "
            f"'logits' and the paths of its modules{', for example ' + ', '.join(map(repr, close)) if close else ''}."
        )
    return Tap(name, source, inputs, data_idx, _channels(modules[source], inputs))


def find_classifier(model: nn.Module, role: str = 'model') -> str:
    """The path of the layer that computes the logits.

    It is the linear layer with as many outputs as there are classes, in the head
    if that has one, else anywhere (VGG and timm models keep it elsewhere).

    Raises:
        ValueError: If there is no such layer, or more than one.
    """
    classes = num_classes(model)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    fitting = {name for name, module in linear.items() if classes is None or module.out_features == classes}
    candidates = [name for name in fitting if name.startswith('head.')] or list(fitting)
    if len(candidates) == 1:
        return candidates[0]
    found = ', '.join(sorted(candidates)) if candidates else 'none'
    raise ValueError(
        f'{role}: cannot tell which layer of {type(model).__name__} computes its logits'
        f'{f" for {classes} classes" if classes else ""}; linear layers that could: {found}. Name the '
        "embedding instead of 'embedding', for example dict(type='ModuleInputs', source='head.fc')."
    )


def num_classes(model: nn.Module) -> Optional[int]:
    """The number of classes that a classifier tells apart, if it says so."""
    # MMPretrain's heads, the backbones that hold a classifier themselves (VGG), timm's models, the model itself, and
    # what its data is said to have (ViG's head keeps no number).
    for owner in ('head', 'backbone', 'model', '', 'data_preprocessor'):
        classes = getattr(getattr(model, owner, None) if owner else model, 'num_classes', None)
        if isinstance(classes, int) and classes > 0:
            return classes
    return None


def _channels(module: nn.Module, inputs: bool) -> Optional[int]:
    for name in (
        ('in_features', 'in_channels', 'num_features')
        if inputs
        else (
            'out_features',
            'out_channels',
            'num_features',
        )
    ):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None


class Recorder:
    """Reads taps during the forwards inside its ``with`` block.

    >>> with Recorder(model, taps) as record:
    ...     losses = model(inputs, data_samples, mode='loss')
    >>> embedding = record[taps[0]]

    Args:
        model (nn.Module): The network.
        taps (Sequence[Tap]): What to read.
        role (str): ``student`` or ``teacher``, for messages.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], role: str = 'model') -> None:
        self._model = model
        self._taps = list(dict.fromkeys(taps))
        self._role = role
        self._handles: List[Any] = []
        self._seen: Dict[Tap, Any] = {}

    def __enter__(self) -> 'Recorder':
        self._seen = {}
        for tap in self._taps:
            module = self._model.get_submodule(tap.source)
            if tap.inputs:

                def read_input(module: nn.Module, args: tuple, tap: Tap = tap) -> None:
                    self._keep(tap, args)

                self._handles.append(module.register_forward_pre_hook(read_input))
            else:

                def read_output(module: nn.Module, args: tuple, output: Any, tap: Tap = tap) -> None:
                    self._keep(tap, output)

                self._handles.append(module.register_forward_hook(read_output))
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, tap: Tap, value: Any) -> None:
        if tap in self._seen:
            raise RuntimeError(
                f'{self._role}: the module {tap.source!r} ran more than once in a forward, so which '
                f'representation {tap} means cannot be told. Read another module.'
            )
        self._seen[tap] = value

    def __getitem__(self, tap: Tap) -> Tensor:
        if tap not in self._seen:
            raise RuntimeError(
                f'{self._role}: the module {tap.source!r} did not run in this forward, so {tap} was not '
                'read. Read a module that runs in training and in evaluation.'
            )
        value = _unwrap(self._seen[tap])
        if isinstance(value, (tuple, list)):
            if tap.data_idx is None or not -len(value) <= tap.data_idx < len(value):
                raise RuntimeError(
                    f'{self._role}: {tap} is {len(value)} values; choose one with '
                    f"dict(type='{_KINDS[not tap.inputs]}', source='{tap.source}', data_idx=...), from 0."
                )
            value = _unwrap(value[tap.data_idx])
        if not isinstance(value, Tensor):
            raise RuntimeError(f'{self._role}: {tap} is a {type(value).__name__}, not a tensor. Read another module.')
        return value


def _unwrap(value: Any) -> Any:
    """What a tuple of one holds: MMPretrain passes a single stage as such."""
    while isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    return value
