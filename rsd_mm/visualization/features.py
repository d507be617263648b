# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What teacher and student see in the images of a data loader."""

from typing import Any, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

from rsd_mm.models.distillers import Distiller
from rsd_mm.models.taps import Recorder, Tap


@torch.no_grad()
def read_features(
    model: Distiller, loader: Any, student_taps: Sequence[Tap], teacher_taps: Sequence[Tap], images: int
) -> Iterator[Tuple[List[Tensor], List[Tensor], Tensor]]:
    """Read taps of both sides in eval mode, batch by batch.

    Args:
        model (Distiller): The distillation; its mode is as before when all is read.
        loader (DataLoader | Sequence): Batches as the data preprocessor takes them.
        student_taps (Sequence[Tap]): What to read of the student.
        teacher_taps (Sequence[Tap]): What to read of the teacher.
        images (int): How many images; the last batch is cut.

    Yields:
        Tuple[List[Tensor], List[Tensor], Tensor]: The student's representations, the
        teacher's, ``(B, ...)`` each, and the labels ``(B,)``, -1 where there are none.
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
            own = [record[tap] for tap in student_taps]
            taught = model.teacher(inputs, teacher_taps)
            samples = data.get('data_samples') or [None] * len(inputs)
            labels = [int(sample.gt_label[0]) if 'gt_label' in (sample or ()) else -1 for sample in samples]
            yield own, [taught[tap] for tap in teacher_taps], torch.tensor(labels[: len(inputs)])
    finally:
        model.train(training)
