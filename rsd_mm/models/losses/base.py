# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The contract of a distillation loss, and the precision and checks that losses share."""

import functools
import inspect
from typing import Any, Callable, Dict, Tuple

import torch
from torch import Tensor, nn

from rsd_mm.utils.checks import check_batch_size, check_number


class DistillLoss(nn.Module):
    """Base class of losses between a student's and a teacher's representation.

    ``forward`` gets the two representations, then what the class declares in ``takes``, by name:

    - ``gt_labels``: targets ``(B,)``, or ``(B, classes)`` where Mixup, CutMix or the dataset makes them soft;
    - ``sample_idx``: indices of the images in the dataset, ``(B,)``, on the CPU;
    - ``return_parts``: True, to return ``(loss, parts)`` with unweighted, detached values for the log by name.

    Options are numbers >= 0, > 0 if their names start with ``tau`` or ``eps``, and become attributes.

    Args:
        loss_weight (float): Factor of the value.
        **options (float): The other options.

    Raises:
        ValueError: If a number is out of range.
    """

    #: What ``forward`` takes beside the two representations.
    takes: Tuple[str, ...] = ()
    #: Options of the constructor that a term or tool fills in where a config leaves them out: ``num_samples``.
    inferred: Tuple[str, ...] = ()
    #: Whether the two representations must have the same width.
    equal_widths = True

    loss_weight: float

    def __init__(self, loss_weight: float, **options: Any) -> None:
        super().__init__()
        self._options: Dict[str, Any] = dict(loss_weight=loss_weight, **options)
        for name, value in self._options.items():
            check_number(f'{type(self).__name__}: {name}', value, positive=name.startswith(('tau', 'eps')))
            setattr(self, name, value)

    def extra_repr(self) -> str:
        return ', '.join(f'{name}={value}' for name, value in self._options.items())


def in_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a loss of ``(student, teacher, ...)`` to be computed in float32, or float64 for float64 input.

    That holds for half precision input and under autocast as well.
    """

    names = list(inspect.signature(function).parameters)[:2]

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        pair = [*args[:2], *(kwargs.pop(name) for name in names[len(args) :])]
        dtype = functools.reduce(torch.promote_types, (x.dtype for x in pair), torch.float32)
        with torch.autocast(pair[0].device.type, enabled=False):
            return function(*(x.to(dtype) for x in pair), *args[2:], **kwargs)

    return wrapped


def check_pair(
    name: str,
    student: Tensor,
    teacher: Tensor,
    dims: int = 2,
    batch: int = 1,
    equal_widths: bool = True,
    hint: str = '',
) -> None:
    """Raise a ValueError for tensors that a loss cannot compare.

    Args:
        name (str): The loss, for the message.
        student (Tensor): The student's side.
        teacher (Tensor): The teacher's side.
        dims (int): Number of dimensions of both.
        batch (int): Least number of samples.
        equal_widths (bool): Whether the shapes must be equal, or only the numbers of samples.
        hint (str): What to do about other shapes.
    """
    shapes = f'{tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher'
    fits = student.shape == teacher.shape if equal_widths else student.shape[:1] == teacher.shape[:1]
    if student.ndim != dims or teacher.ndim != dims or not fits:
        form = {2: '(B, D)', 3: '(B, M, C)', 4: '(B, C, H, W)'}[dims]
        raise ValueError(
            f'{name} compares two tensors {form}{" of one shape" * equal_widths}; received {shapes}.{hint}'
        )
    check_batch_size(f'{name} compares the samples of a batch, so each process needs', len(student), batch)


def hard_labels(gt_labels: Tensor, batch: int) -> Tensor:
    """Return the class of each sample, ``(B,)``; of soft labels ``(B, classes)`` the largest.

    OFA-KD's and RSD's releases do so for labels of Mixup and CutMix.

    Raises:
        ValueError: If there is not one label for each sample.
    """
    labels = gt_labels.argmax(dim=1) if gt_labels.ndim == 2 else gt_labels
    if labels.shape != (batch,):
        raise ValueError(
            f'gt_labels are the classes (B,) or the scores (B, classes) of {batch} samples, received the shape '
            f'{tuple(gt_labels.shape)}.'
        )
    return labels
