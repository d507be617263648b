# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Find the checkpoint to resume from, compare its model with the run's, and replay what training draws."""

import glob
import hashlib
import itertools
import logging
import os
import random
import zipfile
from collections import Counter
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import mmengine.dist as dist
import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from rsd_mm.utils.checkpoint import CheckpointError, read_checkpoint

#: Options that may change: file locations (the teacher's weights are compared themselves) and speed.
_NOT_COMPARED = ('checkpoint', 'pretrained', 'compile', 'channels_last')


def newest_checkpoint(folder: str) -> Optional[str]:
    """Return the complete checkpoint with the most iterations.

    The files themselves are read: mmengine's ``last_checkpoint``, which holds the path of the last one, may have been
    written before or after that checkpoint.

    Args:
        folder (str): The run's work dir. If it has no checkpoint, the folder that its ``last_checkpoint`` points to is
            searched, with a warning.

    Returns:
        str, optional: The path, or None if there is no checkpoint.

    Raises:
        CheckpointError: If there are checkpoints but none is complete.
    """
    found, broken = _read_checkpoints(folder)
    pointer = os.path.join(folder, 'last_checkpoint')
    if not found and not broken and os.path.isfile(pointer):
        with open(pointer, encoding='utf-8') as file:
            elsewhere = os.path.dirname(file.read().strip())
        found, broken = _read_checkpoints(elsewhere)
        message = (
            f'No checkpoint in {folder!r}. Its last_checkpoint points to {elsewhere!r}, which is searched instead.'
        )
        print_log(message, logger='current', level=logging.WARNING)
    for _, path in sorted(found, reverse=True):
        damaged = None
        if zipfile.is_zipfile(path):  # torch.save's format, whose checksums torch.load does not verify
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        if damaged is None:
            for message in broken:
                print_log(f'{message} Skipping it.', logger='current', level=logging.WARNING)
            return path
        broken.append(f'Checkpoint {path!r} is damaged: wrong checksum of {damaged}.')
    if broken:
        listed = '\n'.join(f'  {message}' for message in broken)
        raise CheckpointError(
            f'No complete checkpoint to resume from in {folder!r}:\n{listed}\nLeave out --resume to start over.'
        )
    return None


def _read_checkpoints(folder: str) -> Tuple[List[Tuple[int, str]], List[str]]:
    """Return the iterations and paths of the checkpoints in a folder that can be resumed, and errors of the others."""
    found, broken = [], []
    for path in glob.glob(os.path.join(glob.escape(folder), '*.pth')):
        if os.path.basename(path).startswith('best_'):
            continue  # They have no optimizer state.
        try:
            checkpoint = read_checkpoint(path, mmap=True)  # does not read the tensors' values
        except CheckpointError as error:
            broken.append(str(error))
            continue
        if {'meta', 'optimizer', 'message_hub'} <= checkpoint.keys():
            found.append((checkpoint['meta']['iter'], path))
    return found, broken


def flat_options(value: Any, path: str) -> Iterator[Tuple[str, str]]:
    """Yield every option of a config as ``(path, repr)``, except :data:`_NOT_COMPARED` and folders of config files."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == 'cfg_path':
                item = os.path.basename(item)
            if key not in _NOT_COMPARED:
                yield from flat_options(item, f'{path}.{key}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from flat_options(item, f'{path}.{i}')
    else:
        yield path, repr(value)


def fingerprint(model: nn.Module) -> str:
    """Return a hash of a model's state dict, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def differences(then: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    """Return a line for each key whose value changed; none if ``then`` is empty, as without ``ResumeHook``."""
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)] if then else []
    return [f'{key}: was {then.get(key, "absent")}, now {now.get(key, "absent")}' for key in changed]


class SkipFirst:
    """Wrap a sampler; the first pass over it skips the first ``count`` samples."""

    def __init__(self, sampler: Any, count: int) -> None:
        self.sampler = sampler
        self.count = count

    def __iter__(self) -> Iterator[int]:
        count, self.count = self.count, 0
        return itertools.islice(self.sampler, count, None)

    def __len__(self) -> int:
        return len(self.sampler)


def seed_of(*numbers: int) -> int:
    """Return a seed of 32 bits that is mixed from numbers, each >= 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SeededItems:
    """Fetch the samples of a batch, each seeded with the run's seed, the rank, the epoch and its index.

    A sample's augmentation then depends neither on the samples before it nor on the data workers. Repetitions of a
    sample within a batch, as in repeated augmentation, differ. The DataLoader calls this as the dataset's
    ``__getitems__``.

    Args:
        dataset (Dataset): Indexed by numbers.
        seed (int): The run's seed.
        epoch (Tensor, optional): Shape ``(1,)``, in shared memory, so that persistent workers see it change. Defaults
            to None, for training without epochs: the number of the batch takes its place.
        first (int): The number of the first batch, without epochs. Defaults to 0.
    """

    def __init__(self, dataset: Any, seed: int, epoch: Optional[Tensor] = None, first: int = 0) -> None:
        self.dataset = dataset
        self.seeds = seed, dist.get_rank()
        self.epoch = epoch
        self.next = first

    def __call__(self, indices: Sequence[int]) -> List[Any]:
        worker = torch.utils.data.get_worker_info()  # Workers take turns.
        number = self.next + (worker.id if worker else 0) if self.epoch is None else int(self.epoch)
        self.next += worker.num_workers if worker else 1
        samples: List[Any] = []
        repetitions: Dict[int, int] = Counter()
        for index in map(int, indices):
            seed = seed_of(*self.seeds, number, index, repetitions[index])
            repetitions[index] += 1
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            samples.append(self.dataset[index])
        return samples
