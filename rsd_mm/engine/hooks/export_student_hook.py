# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Export the student when training ends."""

from typing import Any, Dict, Optional, Tuple

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from rsd_mm.engine.export import export_student, read_training_checkpoint
from rsd_mm.engine.runner import distiller_of


@HOOKS.register_module()
class ExportStudentHook(Hook):
    """Export the student as a plain MMPretrain model when training ends.

    Writes ``student.pth`` and ``student.py`` into the work dir, the student at the end of training (with averaged
    weights if there is an ``EMAHook``), and, if training keeps a best checkpoint, ``student_best.pth`` and
    ``student_best.py``. None of them needs this package; see :func:`~rsd_mm.engine.export.export_student`. The log
    summarizes their accuracy. Only the main process writes; models other than a distiller are not exported.

    Args:
        baseline (float, optional): Top-1 accuracy in percent of the student trained without a teacher, for the summary.
            Defaults to None.
    """

    priority = 'LOWEST'  # After the last checkpoint is saved.

    def __init__(self, baseline: Optional[float] = None) -> None:
        if baseline is not None and not 0 <= baseline <= 100:
            raise ValueError(f'ExportStudentHook: baseline is in percent, from 0 to 100, received {baseline!r}.')
        self.baseline = baseline
        self._validated: Tuple[int, Dict[str, float]] = (-1, {})

    def after_val_epoch(self, runner: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        """Keep the metrics and their iteration."""
        self._validated = runner.iter, dict(metrics or {})

    @master_only
    def after_train(self, runner: Any) -> None:
        """Write the files, and log a summary."""
        model = distiller_of(runner)
        if model is None:
            return
        dataset_meta = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
        dataset_meta = {key: list(value) if isinstance(value, tuple) else value for key, value in dataset_meta.items()}
        # As in a checkpoint: EMAHook replaces the weights by their averages.
        checkpoint: Dict[str, Any] = dict(state_dict=model.state_dict())
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.before_save_checkpoint(runner, checkpoint)
        state, (iteration, metrics) = checkpoint['state_dict'], self._validated
        if iteration != runner.iter:
            metrics = {}
        meta: Dict[str, Any] = dict(epoch=runner.epoch, iter=runner.iter, dataset_meta=dataset_meta)
        paths = export_student(runner.cfg, state, runner.work_dir, metrics=metrics, **meta)
        lines = ['The student, as a plain MMPretrain model:', self._summarize('at the end', paths, metrics)]
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if best is not None:
            state, metrics, meta = read_training_checkpoint(best)
            meta['dataset_meta'] = dataset_meta
            paths = export_student(runner.cfg, state, runner.work_dir, 'student_best', metrics, **meta)
            lines.append(self._summarize(f'best, epoch {meta.get("epoch")}', paths, metrics))
        lines.append(f'Try it:  python tools/predict.py {paths[1]} {paths[0]} IMAGE_OR_FOLDER')
        runner.logger.info('\n'.join(lines))

    def _summarize(self, which: str, paths: Tuple[str, str], metrics: Dict[str, float]) -> str:
        top1, text = metrics.get('accuracy/top1'), f'  {which}: {paths[0]}'
        if top1 is not None:
            text += f', top-1 {top1:.2f} % on the validation set'
            if self.baseline is not None:
                text += f', {top1 - self.baseline:+.2f} points over the baseline ({self.baseline:.2f} %)'
        return text
