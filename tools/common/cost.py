# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Parameters and FLOPs of a distillation."""

from typing import Any, Dict

import torch
from mmengine.analysis import get_model_complexity_info, parameter_count


def count_distillation(model: Any, side: int) -> Dict[str, int]:
    """Count parameters, and the multiply-adds of one image, which MMPretrain's tables call FLOPs.

    Args:
        model (Distiller): The distiller, in eval mode.
        side (int): Side of the student's images in pixels.

    Returns:
        Dict[str, int]: ``student_params``, ``student_flops``, ``teacher_params``,
        ``teacher_flops`` and ``training_only_params``, those of the terms.
    """
    counts: Dict[str, int] = {}
    sizes = dict(student=(model.student, None), teacher=(model.teacher.model, model.teacher.bridge.size))
    for name, (network, size) in sizes.items():
        with torch.no_grad():
            shape = (3, *(size or (side, side)))
            info = get_model_complexity_info(network, shape, show_table=False, show_arch=False)
        counts[f'{name}_params'], counts[f'{name}_flops'] = parameter_count(network)[''], int(info['flops'])
    counts['training_only_params'] = parameter_count(model.terms)['']
    return counts
