# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Write checkpoints atomically."""

import contextlib
import glob
import os
import shutil
from typing import Any, Dict, Iterator, List, Optional, Union

from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, which writes to a temporary file and renames it."""

    def put(self, obj: Union[bytes, memoryview], filepath: Any) -> None:
        """Write a file.

        Raises:
            OSError: If it cannot be written; the previous file is unchanged.
        """
        path = os.fspath(filepath)
        folder, temporary = os.path.dirname(path) or '.', f'{path}.tmp'
        try:
            os.makedirs(folder, exist_ok=True)
            with open(temporary, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            free = ''
            with contextlib.suppress(OSError):
                free = f', {shutil.disk_usage(folder).free / 2**20:.1f} MB are free'
            older = ', '.join(sorted(map(os.path.basename, glob.glob(os.path.join(glob.escape(folder), '*.pth')))))
            raise OSError(
                error.errno,
                f'{path!r} could not be written: {error.strerror} (it has {len(obj) / 2**20:.1f} MB{free}). '
                f'Older checkpoints there are unchanged: {older or "none"}. Free up space, or set another --work-dir, '
                'and continue with --resume',
            ) from None


register_backend('rsd_mm.atomic', AtomicLocalBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` with atomic writes.

    mmengine removes an old checkpoint, then writes the new one. A process that is killed or a disk that fills up in
    between leaves a truncated file, and with ``max_keep_ckpts=1`` nothing else. This hook writes a temporary file,
    renames it, and only then removes old checkpoints; for a moment there is one more of them. Remote storage
    (``backend_args``, ``s3://``), which replaces files as a whole, works as in mmengine.

    Args:
        **kwargs: See mmengine's ``CheckpointHook``.
    """

    backend_args: Optional[dict]
    file_backend: Any

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        if self.backend_args is None and isinstance(get_file_backend(self.out_dir), LocalBackend):
            self.backend_args = dict(backend='rsd_mm.atomic')

    @contextlib.contextmanager
    def _remove_last(self) -> Iterator[None]:
        removed: List[str] = []
        self.file_backend.remove = removed.append
        try:
            yield
        finally:
            del self.file_backend.remove
        for path in removed:
            if path not in (self.last_ckpt, getattr(self, 'best_ckpt_path', None)):
                self.file_backend.remove(path)

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        with self._remove_last():
            super().after_train_iter(*args, **kwargs)

    def after_train_epoch(self, runner: Any) -> None:
        with self._remove_last():
            super().after_train_epoch(runner)

    def after_val_epoch(self, runner: Any, metrics: Dict[str, float]) -> None:
        with self._remove_last():
            super().after_val_epoch(runner, metrics)
