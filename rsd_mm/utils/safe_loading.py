# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Let torch's safe loading read the checkpoints that mmengine writes, and run no code."""

import codecs
import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any, Dict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

_HAS_SAFE_GLOBALS = digit_version(torch.__version__) >= digit_version('2.6.0')


def allow_mmengine_objects() -> None:
    """Add what mmengine's checkpoints hold to torch's safe globals.

    From torch 2.6 on ``torch.load`` refuses by default every class that it does not know, and with them a run's own
    checkpoint. Older versions load without restriction by default.
    """
    if _HAS_SAFE_GLOBALS:
        torch.serialization.add_safe_globals([(value, name) for name, value in _mmengine_objects().items()])


def safe_load(file: Any, **options: Any) -> Any:
    """Call ``torch.load`` on the CPU without running code from the file."""
    options['map_location'] = 'cpu'
    if _HAS_SAFE_GLOBALS:
        return torch.load(file, weights_only=True, **options)
    module = SimpleNamespace(Unpickler=_SafeUnpickler, load=_SafeUnpickler.load_file, __name__='pickle')
    return torch.load(file, weights_only=False, pickle_module=module, **options)


def _mmengine_objects() -> Dict[str, Any]:
    """Return what mmengine's checkpoints hold besides tensors and plain values, by the names in their pickles.

    The log is kept as ``HistoryBuffer`` objects: numpy arrays, and references to methods of the class (``mean``,
    ``min``, ...), which pickle writes as calls of ``getattr``. With ``getattr`` a file could reach anything, so a
    function that returns those methods only takes its place.
    """
    # Private to numpy, whose pickled arrays name these functions; the folder changed with numpy 2.
    core: Any = getattr(np, 'core' if np.__version__.startswith('1.') else '_core')
    # Counter: the milestones of MultiStepLR.
    classes = [Counter, HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in '?bhilqBHILQefd'}]
    return {
        **{f'{cls.__module__}.{cls.__qualname__}': cls for cls in classes},
        **{
            f'numpy.{folder}.multiarray.{name}': getattr(core.multiarray, name)
            for folder in ('core', '_core')
            for name in ('_reconstruct', 'scalar')
        },
        '_codecs.encode': codecs.encode,  # as which pickle writes the bytes of an array
        'builtins.getattr': _history_statistic,
    }


def _history_statistic(owner: Any, name: str) -> Any:
    """Return an attribute, of the statistics of ``HistoryBuffer`` only."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


class _SafeUnpickler(pickle.Unpickler):
    """Safe loading for torch < 2.6, whose own takes no further objects."""

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        # Private to torch, but its list of what tensors need; torch < 2.6 is not going to change.
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **_mmengine_objects()}
        if path not in allowed:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {path}')
        return allowed[path]

    @classmethod
    def load_file(cls, file: Any, **options: Any) -> Any:
        return cls(file, **options).load()
