# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Reading checkpoints: safely, strictly, and with errors that say what the file is."""

import codecs
import contextlib
import io
import os
import pickle
import re
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import urlparse

import mmengine.dist as dist
import numpy as np
import torch
from mmengine.fileio import get as read_bytes
from mmengine.logging import HistoryBuffer, print_log
from mmengine.utils import digit_version
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint that can't be read, or does not fit the model it is meant for."""


def _mmengine_objects() -> Dict[str, Any]:
    """What the checkpoints of mmengine hold besides tensors and plain values, by the names in their pickles.

    Its log is kept as ``HistoryBuffer`` objects: numpy arrays, and a reference to
    each of the class's own methods (``mean``, ``min``, ...), which pickle writes as
    a call of ``getattr``. Arrays and buffers are containers of numbers, and in
    place of ``getattr``, with which a file could reach anything, there is a
    function that gives those methods only.
    """
    core: Any = getattr(np, 'core' if np.__version__.startswith('1.') else '_core')
    multiarray = core.multiarray
    # Counter: the milestones of MultiStepLR.
    classes = [Counter, HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in '?bhilqBHILQefd'}]
    return {
        **{f'{cls.__module__}.{cls.__qualname__}': cls for cls in classes},
        # Under numpy 1 and 2.
        **{f'numpy.{folder}.multiarray._reconstruct': multiarray._reconstruct for folder in ('core', '_core')},
        **{f'numpy.{folder}.multiarray.scalar': multiarray.scalar for folder in ('core', '_core')},
        '_codecs.encode': codecs.encode,  # in which pickle writes the bytes of an array
        'builtins.getattr': _history_statistic,
    }


def _history_statistic(owner: Any, name: str) -> Any:
    """``getattr`` for nothing but the statistics of ``HistoryBuffer``."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL getattr({owner!r}, {name!r})')
    return getattr(HistoryBuffer, name)


_TORCH_CAN_BE_TOLD = digit_version(torch.__version__) >= digit_version('2.6.0')


def allow_mmengine_objects() -> None:
    """Let torch's safe loading read the checkpoints that mmengine writes.

    From torch 2.6 on ``torch.load`` refuses by default every class that it does
    not know, and with them a run's own checkpoint: resuming fails. It is told of
    :func:`_mmengine_objects`; older ones load without restriction by default.
    """
    if _TORCH_CAN_BE_TOLD:
        torch.serialization.add_safe_globals([(value, name) for name, value in _mmengine_objects().items()])


class _SafeUnpickler(pickle.Unpickler):
    """Safe loading for torch < 2.6, which has it but can't be told of further objects."""

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        allowed = {**torch._weights_only_unpickler._get_allowed_globals(), **_mmengine_objects()}
        if path not in allowed:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {path}')
        return allowed[path]

    @classmethod
    def load_file(cls, file: Any, **options: Any) -> Any:
        return cls(file, **options).load()


def _safe_load(file: Any, **options: Any) -> Any:
    options['map_location'] = 'cpu'
    if _TORCH_CAN_BE_TOLD:
        return torch.load(file, weights_only=True, **options)
    module = SimpleNamespace(Unpickler=_SafeUnpickler, load=_SafeUnpickler.load_file, __name__='pickle')
    return torch.load(file, weights_only=False, pickle_module=module, **options)


def read_checkpoint(source: str, mmap: bool = False) -> Dict[str, Any]:
    """Read a checkpoint file without running any code in it.

    Args:
        source (str): A local path, an http(s) URL (downloaded once into torch's
            cache, by the first process of each machine), or any path that
            ``mmengine.fileio`` reads.
        mmap (bool): Leave the tensors of a local file on the disk until they are
            used. Defaults to False.

    Returns:
        Dict: What the file holds, on the CPU.

    Raises:
        CheckpointError: If it is missing, empty, a web page, truncated, or holds
            objects that only running code could restore.
    """
    source = os.fspath(source)
    path = source
    if urlparse(source).scheme in ('http', 'https'):
        path = _download(source)
    if '://' in path:
        data = read_bytes(path)
        return _parse(io.BytesIO(data), data[:512], source)
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise CheckpointError(
            f'Checkpoint {source!r} is not a file (looked in {os.path.abspath(path)!r}). '
            'Give the path of an existing file or a URL.'
        )
    with open(path, 'rb') as file:
        head = file.read(512)
        file.seek(0)
        if mmap and head.startswith(b'PK'):  # the archive that torch.save writes
            return _parse(path, head, source, mmap=True)
        return _parse(file, head, source)


def _parse(file: Any, head: bytes, source: str, **options: Any) -> Dict[str, Any]:
    if not head:
        raise CheckpointError(f'Checkpoint {source!r} is empty (0 bytes). Get or save it again.')
    if head.lstrip()[:1] == b'<':
        start = head.lstrip()[:40].decode(errors='replace')
        raise CheckpointError(
            f'Checkpoint {source!r} is a web page, not a checkpoint: it begins with {start!r}. The '
            'download answered with a log-in or error page; get the file itself.'
        )
    try:
        checkpoint = _safe_load(file, **options)
    except pickle.UnpicklingError as error:
        if re.search('unsupported global|trying to call|can only', str(error), re.IGNORECASE):
            found = re.search(r'GLOBAL (\S+)', str(error))
            what = f' ({found.group(1)})' if found else ''
            raise CheckpointError(
                f'Checkpoint {source!r} holds Python objects{what} that only running code from the '
                'file could restore, so it is refused. Give a file of tensors: if you trust this one, '
                "load it where it was made and save its state dict with torch.save(model.state_dict(), 'FILE')."
            ) from None
        raise CheckpointError(_unreadable(source, error)) from None
    except Exception as error:  # RuntimeError, EOFError, OSError...: as many as there are ways to be broken
        raise CheckpointError(_unreadable(source, error)) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f'Checkpoint {source!r} holds a {type(checkpoint).__name__}, not the dict of a checkpoint or a state dict.'
        )
    return checkpoint


def _unreadable(source: str, error: Exception) -> str:
    reason = str(error).partition('\n')[0] or type(error).__name__
    if reason.startswith('Weights only'):  # and then advice to load it unsafely
        reason = 'in no format that torch.save writes'
    return f'Checkpoint {source!r} is truncated or not a PyTorch checkpoint ({reason}). Get or save it again.'


@contextlib.contextmanager
def first_process_first() -> Iterator[bool]:
    """The first process of each machine goes ahead, to download for example; the others follow. Tells which it is."""
    first = int(os.environ.get('LOCAL_RANK', 0)) == 0
    if not first:
        dist.barrier()
    try:
        yield first
    finally:
        if first:
            dist.barrier()  # also after an error, or the others would wait


def _download(url: str) -> str:
    name = os.path.basename(urlparse(url).path)
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
    error: Any = 'see the first process'
    with first_process_first() as first:
        if first and not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            print_log(f'Downloading {url} to {path}', logger='current')
            try:
                torch.hub.download_url_to_file(url, path, progress=dist.is_main_process())
            except Exception as exception:
                error = exception
    if not os.path.exists(path):
        raise CheckpointError(
            f'Checkpoint {url!r} could not be downloaded ({error}). Without '
            f'internet, put the file at {path!r}, or set `checkpoint` to where it is.'
        )
    return path


def state_dict_of(checkpoint: Mapping[str, Any], source: str) -> Dict[str, Tensor]:
    """The weights in a checkpoint, keyed as the model's own.

    Understands a bare state dict, one under ``state_dict`` or ``model``, keys
    with DDP's ``module.``, and checkpoints of a distillation, of which it
    returns the student.

    Raises:
        CheckpointError: If there are none.
    """
    state: Any = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            state = checkpoint[key]
            break
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ', '.join(map(repr, list(state)[:8])) or 'nothing'
        raise CheckpointError(
            f'Checkpoint {source!r} holds no state dict: found {keys}. Expected tensors by name, bare '
            "or under 'state_dict' or 'model'."
        )
    if all(key.startswith('module.') for key in state):
        state = {key[len('module.') :]: value for key, value in state.items()}
    if any(key.startswith('student.') for key in state):
        state = {key[len('student.') :]: value for key, value in state.items() if key.startswith('student.')}
    return dict(state)


def load_strictly(
    model: nn.Module, source: str, name: str = 'model', state: Optional[Mapping[str, Tensor]] = None
) -> None:
    """Load a checkpoint into a model; every key and shape has to fit.

    Args:
        model (nn.Module): The model, changed in place. One of timm takes files of
            older versions of timm as well.
        source (str): See :func:`read_checkpoint`.
        name (str): What the error calls the model, for example ``teacher``.
        state (Mapping[str, Tensor], optional): The weights, if they have been read
            already; ``source`` is where they are from. Defaults to None.

    Raises:
        CheckpointError: If the file can't be read, or if a key is missing,
            unexpected or of another shape; those are listed.
    """
    state = _as_wrapped(model, state_dict_of(read_checkpoint(source) if state is None else state, source))
    problems: List[Tuple[str, List[str]]] = []
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # wrong shapes, which torch raises even when not strict
        shapes = re.findall(
            r'size mismatch for (.+?): copying a param with shape (.+?) from checkpoint, '
            r'the shape in current model is (.+?)\.(?:\n|$)',
            str(error),
        )
        if not shapes:
            raise CheckpointError(f'Checkpoint {source!r} does not fit the {name}: {error}') from None
        own = model.state_dict().keys()
        missing, unexpected = sorted(own - state.keys()), sorted(state.keys() - own)
        listed = [f'{key} ({_plain(there)} in the file, {_plain(here)} in the {name})' for key, there, here in shapes]
        problems.append(('of another shape', listed))
    problems += [('missing', list(missing)), ('unexpected', list(unexpected))]
    problems = [(kind, keys) for kind, keys in problems if keys]
    if problems:
        lines = [f'  {len(keys)} {kind}: {_shorten(keys)}' for kind, keys in problems]
        raise CheckpointError(
            f'Checkpoint {source!r} does not fit the {name} ({type(model).__name__}):\n' + '\n'.join(lines) + '\n'
            f'Give the checkpoint of this very architecture and class count, or change the {name} to match it.'
        )


def is_wrapper(model: nn.Module) -> bool:
    """Whether it is one of MMPretrain's wrappers around a model of timm or transformers, which it calls ``model``."""
    return hasattr(model, '_add_state_dict_prefix')


def keep_keys_where_nested(model: nn.Module) -> None:
    """Make the state dict of a wrapper (:func:`is_wrapper`) right within another model.

    Its hooks leave ``model.`` out of the keys, which works for a model that is not
    part of another: within one, saving ignores them, and loading puts ``model.`` in
    twice and drops the keys of all other parts. Without the hooks the keys are those
    of any module.
    """
    if is_wrapper(model):
        model._state_dict_hooks.clear()
        model._load_state_dict_pre_hooks.clear()


def _as_wrapped(model: nn.Module, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the keys for a model of timm or transformers: without ``model.``, and as the installed timm does.

    timm's modules bring the function that renames the keys of their own models'
    older versions (for example, from 0.9 on Swin's downsampling is part of the
    next stage).
    """
    if is_wrapper(model) and model._state_dict_hooks and all(key.startswith('model.') for key in state):
        state = {key[len('model.') :]: value for key, value in state.items()}  # of a distillation's student
    inner = getattr(model, 'model', None)
    if not type(inner).__module__.startswith('timm.') or state.keys() == model.state_dict().keys():
        return state
    rename = getattr(sys.modules[type(inner).__module__], 'checkpoint_filter_fn', None)
    return state if rename is None else dict(rename(state, inner))


def _plain(size: str) -> str:
    return size.replace('torch.Size([', '(').replace('])', ')')


def _shorten(keys: List[str], most: int = 10) -> str:
    rest = f', ... and {len(keys) - most} more' if len(keys) > most else ''
    return ', '.join(keys[:most]) + rest
