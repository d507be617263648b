# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A distiller's teacher as a classifier."""

from typing import Any, List, Optional, Union

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from .distiller import Distiller
from .teacher import Teacher


@MODELS.register_module()
class TeacherClassifier(BaseModel):
    """Evaluate a distiller's teacher under the conditions in which it teaches.

    Images go through the student's data preprocessor, then the input bridge. A teacher that reaches its known accuracy
    here sees what it was trained for.

    Args:
        distiller (dict | Distiller): The distiller.
        data_preprocessor (dict, optional): The distiller's, which a Runner fills in from the config's own. Defaults to
            None.

    Raises:
        ValueError: If the layer that computes the teacher's logits is ambiguous.
    """

    teacher: Teacher

    def __init__(self, distiller: Union[dict, Distiller], data_preprocessor: Optional[dict] = None) -> None:
        built: Any = distiller
        if isinstance(distiller, dict):
            built = MODELS.build({'data_preprocessor': data_preprocessor, **distiller})
        super().__init__(data_preprocessor=built.data_preprocessor)
        object.__setattr__(self, 'teacher', built.teacher)  # not a submodule, as in the distiller
        self._logits = self.teacher.tap('logits')

    def forward(
        self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor'
    ) -> Union[Tensor, List[Any]]:
        """Return logits ``(B, classes)`` for ``mode='tensor'``, the samples with predictions for ``'predict'``."""
        logits = self.teacher(inputs, [self._logits])[self._logits]
        if mode == 'tensor':
            return logits
        if mode != 'predict' or data_samples is None:
            raise ValueError(
                f"A teacher is evaluated in mode 'tensor', or 'predict' with data samples; received mode {mode!r}."
            )
        scores = logits.float().softmax(dim=1)
        for sample, score in zip(data_samples, scores):
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True))
        return data_samples
