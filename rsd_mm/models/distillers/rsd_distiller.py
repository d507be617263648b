# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Redundancy Suppression Distillation."""

import inspect
from typing import Any, Dict, Optional, Union

from mmengine.registry import MODELS

from rsd_mm.utils.checks import unknown_option

from .distiller import Distiller


@MODELS.register_module()
class RSDDistiller(Distiller):
    r"""Redundancy Suppression Distillation (RSD), arXiv 2507.21844, ICCV 2025.

    :math:`L = L_{CE}(\text{student}) + \lambda L_{RSD}(h(z_s), z_t)`, with :math:`z_s, z_t` the embeddings of student
    and teacher (what enters their classifiers, ``(B, D_s)`` and ``(B, D_t)``), :math:`h` a projector
    (:class:`~rsd_mm.RSDProjector`) and :math:`L_{RSD}` of :func:`~rsd_mm.rsd_loss`.

    It is the :class:`Distiller` with one term filled in, ``loss_rsd``, whose parts are logged as ``rsd_invariance`` and
    ``rsd_decorrelation``.

    Args:
        projector (dict, optional): The projector; its ``type`` defaults to ``RSDProjector``, widths are inferred. None
            is no projector, for two embeddings of one width. Defaults to ``dict(type='RSDProjector')``.
        loss (dict): The loss; its ``type`` defaults to ``RSDLoss``, with lambda 0.1 and kappa 0.01, the paper.
        student_tap (str | dict): What is read of the student. Defaults to ``'embedding'``, the paper; ``'logits'`` is
            its ablation.
        teacher_tap (str | dict): What is read of the teacher. Defaults to ``'embedding'``.
        terms (Dict[str, dict], optional): Further terms, see :class:`Distiller`.
        student, teacher, data_preprocessor, init_cfg, channels_last, compile: See :class:`Distiller`.

    Raises:
        ValueError: See :class:`Distiller`; also for an unknown option.

    Examples:
        >>> model = dict(
        ...     type='RSDDistiller',
        ...     student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py'),
        ...     teacher=dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', pretrained=True),
        ...     loss=dict(loss_weight=0.1, kappa=0.01))
    """

    def __init__(
        self,
        student: dict,
        teacher: dict,
        projector: Optional[dict] = dict(type='RSDProjector'),
        loss: dict = dict(type='RSDLoss'),
        student_tap: Union[str, dict] = 'embedding',
        teacher_tap: Union[str, dict] = 'embedding',
        terms: Optional[Dict[str, dict]] = None,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
        channels_last: bool = False,
        compile: Union[bool, dict] = False,
        **unknown: Any,
    ) -> None:
        for option in unknown:
            known = [name for name in inspect.signature(RSDDistiller).parameters if name != 'unknown']
            raise ValueError(unknown_option('model', 'RSDDistiller', option, known))
        if isinstance(projector, dict):
            projector = {'type': 'RSDProjector', **projector}
        if isinstance(loss, dict):
            loss = {'type': 'RSDLoss', **loss}
        rsd = dict(student_tap=student_tap, teacher_tap=teacher_tap, projector=projector, loss=loss)
        super().__init__(
            student=student,
            teacher=teacher,
            terms={'loss_rsd': rsd, **(terms or {})},
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
            channels_last=channels_last,
            compile=compile,
        )
