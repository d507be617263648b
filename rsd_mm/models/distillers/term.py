# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""One term of a distiller's objective."""

from typing import Any, Dict, Optional

from mmengine.model import BaseModule
from torch import Tensor, nn

from rsd_mm.models.parts import arguments_of, build_part, inferred_options
from rsd_mm.models.taps import Tap
from rsd_mm.utils.random_state import keep_random_state

#: Annotations of a batch that a loss may take.
ANNOTATIONS = ('gt_labels', 'sample_idx')


class DistillTerm(BaseModule):
    """A tap on either side, a projector and a loss.

    What the loss and the projectors want beside the two representations they declare, see
    :class:`~rsd_mm.models.losses.DistillLoss` and :class:`~rsd_mm.models.necks.Projector`; of parts that declare
    nothing, such as mmrazor's, it is inferred from their signatures. Widths given in the config have to agree with the
    taps'. Without a form in its projector, a stage is passed on as a map ``(B, C, H, W)``, without class token.

    Args:
        name (str): The key of its value among the losses; contains ``loss``.
        student_tap (Tap): What it reads of the student.
        teacher_tap (Tap): What it reads of the teacher.
        loss (dict): A loss that multiplies by its own weight.
        projector (dict, optional): A neck for the student's side. Defaults to None, for two sides of one width.
        teacher_projector (dict, optional): A neck for the teacher's side, which is trained too; both sides then meet in
            a width of their own. Defaults to None.
        context (Dict[str, int], optional): ``student_width`` and ``teacher_width``, for the projector.

    Raises:
        ValueError: If the name, an option or a width does not fit.
    """

    def __init__(
        self,
        name: str,
        student_tap: Tap,
        teacher_tap: Tap,
        loss: dict,
        projector: Optional[dict] = None,
        teacher_projector: Optional[dict] = None,
        context: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__()
        if 'loss' not in name:
            raise ValueError(
                f'The name of a distillation term has to contain "loss", since mmengine adds up the values of such '
                f'names; received {name!r}. Call it {"loss_" + name!r}.'
            )
        self.name = name
        self.student_tap = student_tap
        self.teacher_tap = teacher_tap
        self.loss = build_part(loss, f'{name}.loss')
        arguments = arguments_of(self.loss)
        self._has_parts = 'return_parts' in arguments
        self.annotations = tuple(option for option in ANNOTATIONS if option in arguments)
        student, teacher = f"student's {student_tap}", f"teacher's {teacher_tap}"
        width, out_width = student_tap.channels, teacher_tap.channels
        self.projector = self.teacher_projector = None
        if teacher_projector is not None:
            sides = {teacher: out_width, 'meeting of both sides': None}
            self.teacher_projector = self._build('teacher_projector', teacher_projector, sides)
            teacher, out_width = "teacher's projector", getattr(self.teacher_projector, 'out_channels', None)
        if projector is not None:
            sides = {student: width, teacher: out_width}
            self.projector = self._build('projector', projector, sides, form=student_tap.form, **context or {})
        elif getattr(self.loss, 'equal_widths', True) and None not in (width, out_width) and width != out_width:
            raise ValueError(
                f'{name}: the {student} has {width} channels and the {teacher} has {out_width}. Give the term a '
                "projector, for example dict(type='RSDProjector')."
            )

    def _build(self, option: str, cfg: dict, sides: Dict[str, Optional[int]], **context: Any) -> nn.Module:
        """Build a projector between two sides, given by name and width."""
        known: Dict[str, Any] = dict(zip(('in_channels', 'out_channels'), sides.values()), **context)
        inferred = inferred_options(cfg, **known)
        for (side, width), name in zip(sides.items(), known):
            if name not in inferred:  # A projector of another package may call it otherwise, given in the config.
                continue
            given = cfg.get(name) if isinstance(cfg, dict) else getattr(cfg, name, None)
            if given is None and width is None:
                raise ValueError(
                    f'{self.name}.{option}: the width of the {side} is unknown before it runs; set {name}.'
                )
            if given is not None and width is not None and given != width:
                raise ValueError(
                    f'{self.name}.{option}: {name}={given}, but the {side} has {width} channels. '
                    f'Set {width}, or leave {name} out: it is inferred.'
                )
            if width is None:
                del inferred[name]
        return build_part(cfg, f'{self.name}.{option}', **inferred)

    def init_weights(self) -> None:
        """Initialize the weights, then restore the random state."""
        with keep_random_state():
            super().init_weights()

    def forward(self, student: Tensor, teacher: Tensor, **annotations: Tensor) -> Dict[str, Tensor]:
        """Return the term's weighted value, and its parts for the log.

        Args:
            student (Tensor): From the student's tap.
            teacher (Tensor): From the teacher's tap.
            **annotations: Those of :data:`ANNOTATIONS` that some loss takes.

        Returns:
            Dict[str, Tensor]: The value under the term's name; unweighted, detached parts under names without ``loss``,
            so that mmengine logs them and does not add them to the total.
        """
        if getattr(self.projector, 'form', None) is None:
            student = self.student_tap.as_map(student)
        if self.projector is not None:
            student = self.projector(student)
        teacher = self.teacher_tap.as_map(teacher)
        if self.teacher_projector is not None:
            teacher = self.teacher_projector(teacher)
        options: Dict[str, Any] = {name: annotations[name] for name in self.annotations}
        if not self._has_parts:
            return {self.name: self.loss(student, teacher, **options)}
        value, parts = self.loss(student, teacher, **options, return_parts=True)
        stem = self.name.replace('loss', '').strip('_') or 'term'
        return {self.name: value, **{f'{stem}_{part}': number for part, number in parts.items()}}
