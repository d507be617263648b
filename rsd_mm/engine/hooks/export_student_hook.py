# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The student as files of its own, at the end of training."""

from typing import Any, Dict, Optional, Tuple

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from rsd_mm.models.distillers import Distiller
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.export import export_student, read_training_checkpoint


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Writes the student as a plain MMPretrain model when training ends.

    Into the work dir go ``student.pth`` and ``student.py``, the student as it is
    at the end (averaged, where an ``EMAHook`` averages), and, where training keeps
    a best checkpoint, ``student_best.pth`` and ``student_best.py``. Neither needs
    this package; see :func:`~rsd_mm.utils.export.export_student`. A summary tells
    how good they are. The main process writes; other models are left alone.

    Args:
        baseline (float, optional): Top-1 accuracy in percent of the student
            trained alone, for the summary. Defaults to None.
    """

    priority = 'LOWEST'  # after the last checkpoint is there

    def __init__(self, baseline: Optional[float] = None) -> None:
        if baseline is not None and not 0 <= baseline <= 100:
            raise ValueError(f'ExportStudentHook: baseline is in percent, from 0 to 100, received {baseline!r}.')
        self.baseline = baseline
        self._validated: Tuple[int, Dict[str, float]] = (-1, {})

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Remember what was measured, and of which iteration."""
        self._validated = runner.iter, dict(metrics or {})

    @master_only
    def after_train(self, runner: Any) -> None:
        """Write the files, and a summary to the log."""
        model = unwrap(runner.model)
        if not isinstance(model, Distiller):
            return
        lines = ['The student, as a plain MMPretrain model:']
        # What a checkpoint would hold now: an EMAHook puts its averages in the place of the weights.
        checkpoint: Dict[str, Any] = dict(state_dict=model.state_dict())
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.before_save_checkpoint(runner, checkpoint)
        iteration, metrics = self._validated
        metrics = metrics if iteration == runner.iter else {}
        meta = dict(epoch=runner.epoch, iter=runner.iter, dataset_meta=_dataset_meta(runner))
        paths = export_student(runner.cfg, checkpoint['state_dict'], runner.work_dir, metrics=metrics, **meta)
        lines.append(self._line('at the end', paths, metrics))
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if best is not None:
            state, metrics, meta = read_training_checkpoint(best)
            meta['dataset_meta'] = _dataset_meta(runner)
            paths = export_student(runner.cfg, state, runner.work_dir, 'student_best', metrics, **meta)
            lines.append(self._line(f'the best, of epoch {meta.get("epoch")}', paths, metrics))
        lines.append(f'Try it:  python tools/predict.py {paths[1]} {paths[0]} IMAGE_OR_FOLDER')
        runner.logger.info('\n'.join(lines))

    def _line(self, which: str, paths: tuple, metrics: Dict[str, float]) -> str:
        top1 = metrics.get('accuracy/top1')
        told = '' if top1 is None else f', top-1 {top1:.2f} % on the validation set'
        if top1 is not None and self.baseline is not None:
            told += f', {top1 - self.baseline:+.2f} points against alone ({self.baseline:.2f} %)'
        return f'  {which}: {paths[0]}{told}'


def _dataset_meta(runner: Any) -> Dict[str, Any]:
    meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
    return {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in meta.items()}
