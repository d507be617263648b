# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Read features of teacher and student over a data loader."""

from typing import Any, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

from rsd_mm.models.distillers import Distiller
from rsd_mm.models.taps import Recorder, Tap


@torch.no_grad()
def read_features(
    model: Distiller, loader: Any, student_taps: Sequence[Tap], teacher_taps: Sequence[Tap], images: int
) -> Iterator[Tuple[List[Tensor], List[Tensor], Tensor]]:
    """Read taps of student and teacher batch by batch, with the model in eval mode.

    Args:
        model (Distiller): The distiller; its mode is restored at the end.
        loader (DataLoader | Sequence): Batches for the data preprocessor.
        student_taps (Sequence[Tap]): Taps of the student.
        teacher_taps (Sequence[Tap]): Taps of the teacher.
        images (int): Number of images; the last batch is cut to it.

    Yields:
        Tuple[List[Tensor], List[Tensor], Tensor]: The student's and the teacher's features, ``(B, ...)`` each, and the
        labels ``(B,)``, -1 for unlabelled images.
    """
    training = model.training
    model.eval()
    try:
        for batch in loader:
            if images <= 0:
                break
            data = model.data_preprocessor(batch, False)
            inputs = data['inputs'][:images]
            images -= len(inputs)
            with Recorder(model.student, student_taps, 'student') as record:
                model.student(inputs)
            student = [record[tap] for tap in student_taps]
            teacher = model.teacher(inputs, teacher_taps)
            samples = data.get('data_samples') or [None] * len(inputs)
            labels = [int(sample.gt_label[0]) if 'gt_label' in (sample or ()) else -1 for sample in samples]
            yield student, [teacher[tap] for tap in teacher_taps], torch.tensor(labels[: len(inputs)])
    finally:
        model.train(training)
