# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Reading taps in a forward."""

from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type

from torch import Tensor, nn

from .resolve import MODULE_KINDS
from .tap import Tap


class Recorder:
    """Record taps during the forwards inside its ``with`` block.

    It uses forward hooks that exist in the block only, so the forward that computes the task loss serves distillation
    as well, and the model carries no trace of having been tapped.

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
        self._runs: Dict[Tuple[Tap, str], List[Any]] = {}

    def __enter__(self) -> 'Recorder':
        self._runs = {}
        for tap in self._taps:
            for source in tap.sources:
                self._handles.append(self._hook(self._model.get_submodule(source), tap, source))
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __getitem__(self, tap: Tap) -> Tensor:
        return tap.read(self._model, [self._value(tap, source) for source in tap.sources])

    def _hook(self, module: nn.Module, tap: Tap, source: str) -> Any:
        if tap.inputs:
            return module.register_forward_pre_hook(lambda module, args: self._record(tap, source, args))
        return module.register_forward_hook(lambda module, args, output: self._record(tap, source, output))

    def _record(self, tap: Tap, source: str, value: Any) -> None:
        runs = self._runs.setdefault((tap, source), [])
        if runs and tap.record_idx is None:
            raise RuntimeError(
                f'{self._role}: the module {source!r} ran more than once in a forward, so {tap} is ambiguous. Read '
                f'another module, or choose a run with {_as_dict(tap, source, "record_idx")}, from 0.'
            )
        runs.append(value)

    def _value(self, tap: Tap, source: str) -> Tensor:
        if (tap, source) not in self._runs:
            raise RuntimeError(
                f'{self._role}: the module {source!r} did not run in this forward, so {tap} was not '
                'read. Read a module that runs in training and in evaluation.'
            )
        runs = self._runs[tap, source]
        if not -len(runs) <= (tap.record_idx or 0) < len(runs):
            raise RuntimeError(
                f'{self._role}: record_idx={tap.record_idx} of {tap}, whose module ran {len(runs)} times in this '
                'forward. Choose from 0.'
            )
        value = _unwrap(runs[tap.record_idx or 0])
        if isinstance(value, (tuple, list)):
            if tap.data_idx is None or not -len(value) <= tap.data_idx < len(value):
                raise RuntimeError(
                    f'{self._role}: {tap} is {len(value)} values; choose one with '
                    f'{_as_dict(tap, source, "data_idx")}, from 0.'
                )
            value = _unwrap(value[tap.data_idx])
        if not isinstance(value, Tensor):
            raise RuntimeError(f'{self._role}: {tap} is a {type(value).__name__}, not a tensor. Read another module.')
        return value


def _as_dict(tap: Tap, source: str, option: str) -> str:
    return f"dict(type='{MODULE_KINDS[tap.inputs]}', source='{source}', {option}=...)"


def _unwrap(value: Any) -> Any:
    """Return the content of a tuple of one, as which MMPretrain passes a single stage."""
    while isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    return value
