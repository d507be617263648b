# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What a distillation costs, counted."""

from typing import Any, Dict, Tuple

import torch
from mmengine.analysis import get_model_complexity_info


def count_parameters(module: torch.nn.Module) -> int:
    """The numbers that a module has as parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: torch.nn.Module, shape: Tuple[int, ...]) -> int:
    """The multiply-adds of one input of a shape, which MMPretrain's tables call FLOPs."""
    with torch.no_grad():
        return int(get_model_complexity_info(module, shape, show_table=False, show_arch=False)['flops'])


def count_distillation(model: Any, side: int) -> Dict[str, int]:
    """Parameters and multiply-adds of one image, of a distiller in eval mode.

    Args:
        model (Distiller): The distiller.
        side (int): The side of the student's images in pixels.

    Returns:
        Dict[str, int]: ``student_params``, ``student_flops``, ``teacher_params``,
        ``teacher_flops`` and ``training_only_params``, those of the terms.
    """
    numbers: Dict[str, int] = {}
    sides = dict(student=(model.student, (side, side)), teacher=(model.teacher.model, model.teacher.bridge.size))
    for name, (network, size) in sides.items():
        numbers[f'{name}_params'] = count_parameters(network)
        numbers[f'{name}_flops'] = count_flops(network, (3, *(size or (side, side))))
    numbers['training_only_params'] = count_parameters(model.terms)
    return numbers
