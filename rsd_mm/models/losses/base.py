# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the losses of the compared methods share: precision, checks and a weight."""

import functools
import math
from typing import Any, Callable, Dict

import torch
from torch import Tensor, nn


def in_full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a loss in float32 (float64 for float64 input), also for half precision and under autocast.

    The first two arguments of the function are the student's and the teacher's
    tensor. On a CPU a value that is not finite becomes an error that names the side
    with NaN or inf, unless the function is called with ``check_finite=False``; on an
    accelerator that would stall the device, and :class:`~rsd_mm.Distiller` looks one
    step late.
    """

    @functools.wraps(function)
    def wrapped(student: Tensor, teacher: Tensor, *args: Any, check_finite: bool = True, **kwargs: Any) -> Any:
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        with torch.autocast(student.device.type, enabled=False):
            value = function(student.to(dtype), teacher.to(dtype), *args, **kwargs)
        if check_finite and value.device.type == 'cpu' and not torch.isfinite(value):
            for side, tensor in dict(student=student, teacher=teacher).items():
                bad = int((~torch.isfinite(tensor)).sum())
                if bad:
                    raise ValueError(
                        f"{function.__name__}: the {side}'s input holds NaN or inf in {bad} of {tensor.numel()} "
                        "values. Lower the learning rate or the loss weight if it is the student's; check the weights "
                        "and the input normalization if it is the teacher's."
                    )
        return value

    return wrapped


def check_pair(
    name: str, student: Tensor, teacher: Tensor, dims: int = 2, batch: int = 1, equal_widths: bool = True
) -> None:
    """Refuse tensors that a loss can't compare.

    Args:
        name (str): The loss, for the message.
        student (Tensor): The student's side.
        teacher (Tensor): The teacher's side.
        dims (int): The number of dimensions that both have to have.
        batch (int): The least number of samples.
        equal_widths (bool): Whether the shapes have to be equal, or only the
            numbers of samples.

    Raises:
        ValueError: If they don't fit; the message gives both shapes.
    """
    shapes = f'{tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher'
    fits = student.shape == teacher.shape if equal_widths else student.shape[:1] == teacher.shape[:1]
    if student.ndim != dims or teacher.ndim != dims or not fits:
        form = {2: '(B, D)', 3: '(B, M, C)', 4: '(B, C, H, W)'}[dims]
        raise ValueError(f'{name} compares two tensors {form}{" of one shape" * equal_widths}; received {shapes}.')
    if len(student) < batch:
        raise ValueError(
            f'{name} compares samples of a batch with each other, so a process needs at least {batch} samples a step; '
            f'received {len(student)}. If this is the last batch of an epoch, set drop_last=True in '
            'train_dataloader; otherwise raise its batch_size.'
        )


def hard_labels(gt_labels: Tensor, batch: int) -> Tensor:
    """The class of each sample, ``(B,)``: that of the largest score where labels are soft, ``(B, classes)``.

    That is what OFA-KD's and RSD's releases do for labels of Mixup and CutMix.

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


class DistillLoss(nn.Module):
    """A loss with a weight; its further options are numbers >= 0, and > 0 if they start with ``tau`` or ``eps``.

    Args:
        loss_weight (float): What the value is multiplied by.
        **options (float): The options, kept as attributes.

    Raises:
        ValueError: If a number is out of its range.
    """

    loss_weight: float
    #: Whether NaN and inf are looked for on a CPU; :class:`HealthHook` does it instead, with more to say.
    check_finite = True

    def __init__(self, loss_weight: float, **options: Any) -> None:
        super().__init__()
        self._options: Dict[str, Any] = dict(loss_weight=loss_weight, **options)
        for name, value in self._options.items():
            positive = name.startswith(('tau', 'eps'))
            if not (value > 0 if positive else value >= 0) or not value < math.inf:
                raise ValueError(
                    f'{type(self).__name__}: {name} must be a number {">" if positive else ">="} 0, received {value!r}.'
                )
            setattr(self, name, value)

    def extra_repr(self) -> str:
        return ', '.join(f'{name}={value}' for name, value in self._options.items())
