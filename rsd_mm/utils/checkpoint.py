# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Reading checkpoints: safely, and with errors that say what the file is."""

import contextlib
import io
import os
import pickle
import re
from typing import Any, Dict, Iterator, Mapping
from urllib.parse import urlparse

import mmengine.dist as dist
import torch
from mmengine.fileio import get as read_bytes
from mmengine.logging import print_log
from torch import Tensor

from .safe_loading import safe_load


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit its model."""


def read_checkpoint(source: str, mmap: bool = False) -> Dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Args:
        source (str): A local path, an http(s) URL (downloaded once into torch's cache, by the first process of each
            machine), or any path that ``mmengine.fileio`` reads.
        mmap (bool): Leave the tensors of a local file on disk until they are used. Defaults to False.

    Returns:
        Dict: The content, on the CPU.

    Raises:
        CheckpointError: If it is missing, empty, a web page, truncated, or holds objects that only running code could
            restore.
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
        checkpoint = safe_load(file, **options)
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
    """Let the first process of each machine run the block before the others. Yield whether it is this one."""
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
    """Return the weights in a checkpoint, keyed as the model's own.

    Takes a bare state dict, one under ``state_dict`` or ``model``, keys with DDP's ``module.``, and checkpoints of a
    distillation, of which it returns the student.

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
