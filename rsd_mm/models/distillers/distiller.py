# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The generic distiller: a student, a teacher, and named terms between them."""

from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from mmengine.model import BaseModel, ModuleDict
from mmengine.registry import MODELS
from torch import Tensor

from rsd_mm.models.parts import inferred_options
from rsd_mm.models.reference import build_model, resolve_model
from rsd_mm.models.taps import Recorder, Tap, num_classes, resolve_tap
from rsd_mm.utils.checks import check_flag, unknown_option
from rsd_mm.utils.random_state import keep_random_state
from rsd_mm.utils.weights import load_strictly, use_nested_keys

from .compile import compile_around, compile_options
from .teacher import Teacher
from .term import DistillTerm


@MODELS.register_module()
class Distiller(BaseModel):
    """Train a student with a frozen teacher.

    In training, a batch goes through the teacher, which sees the student's (mixed) images in its own normalization, and
    once through the student, whose data preprocessor, batch augmentation, head and loss work as ever. Each term
    compares what its two taps read in these forwards, and adds its value to the student's losses. Otherwise the
    distiller is its student.

    Its state dict, parameters and modules are those of the student (``student.``) and of the terms (``terms.``), never
    of the teacher; see :class:`Teacher`.

    Args:
        student (dict): The student: an inline model, or ``dict(cfg_path=..., pretrained=False, checkpoint=None, ...)``;
            see :func:`~rsd_mm.models.reference.resolve_model`. A checkpoint is loaded strictly.
        teacher (dict): The teacher, in the same forms, with the options of :class:`Teacher`.
        terms (Dict[str, dict]): The terms by name, which contains ``loss``. A term is ``dict(student_tap='embedding',
            teacher_tap='embedding', projector=None, teacher_projector=None, loss=dict(type=...))``.
        data_preprocessor (dict, optional): The student's data preprocessor, which a Runner fills in from the config's
            own. Defaults to None.
        init_cfg (dict, optional): Of mmengine's ``BaseModule``.
        channels_last (bool): Memory format of the images and the student's convolutions; the teacher has the same
            option. Defaults to False.
        compile (bool | dict): True, or the arguments of ``torch.compile``, for the terms and for all parts of the
            student in which nothing is read; the teacher has the same option. Defaults to False.

    Raises:
        ValueError: If the parts do not fit together; everything is checked here.
    """

    teacher: Teacher

    def __init__(
        self,
        student: dict,
        teacher: dict,
        terms: Dict[str, dict],
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
        channels_last: bool = False,
        compile: Union[bool, dict] = False,
    ) -> None:
        options = compile_options(compile, 'model')
        reference = resolve_model(student, 'student', data_preprocessor)
        model = build_model(reference, 'student')
        if not isinstance(model, BaseModel):
            raise ValueError(
                f'student: {reference.origin} builds a {type(model).__name__}; a student is a model of '
                'mmengine (BaseModel), such as ImageClassifier or TimmClassifier.'
            )
        super().__init__(data_preprocessor=model.data_preprocessor, init_cfg=init_cfg)
        self.student = model
        #: The weights that the student starts from, if any.
        self.student_checkpoint = reference.checkpoint
        if reference.checkpoint is not None:
            load_strictly(model, reference.checkpoint, 'student')
            model.is_init = True  # mmengine would initialize it again.
        use_nested_keys(model)
        # Neither may change the student's initial weights, so that methods can be compared.
        with keep_random_state():
            # Not a submodule: what walks over modules, parameters or state must not meet the teacher.
            object.__setattr__(self, 'teacher', Teacher.from_config(teacher, model.data_preprocessor))
            # mmengine's ModuleDict, which applies a projector's init_cfg.
            self.terms = ModuleDict({name: self._build_term(name, cfg) for name, cfg in terms.items()})
        self.student_taps = self._distinct_taps('student_tap')
        self.teacher_taps = self._distinct_taps('teacher_tap')
        self.channels_last = check_flag('model: channels_last', channels_last)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        if options:
            compile_around(model, [source for tap in self.student_taps for source in tap.sources], options)
            for term in self.terms.values():
                term.compile(**options)
        #: Called with both networks' features, by name, in every training step. Set by HealthHook.
        self.observe: Optional[Callable[[Dict[str, Tensor]], None]] = None

    def _build_term(self, name: str, cfg: dict) -> DistillTerm:
        options: Dict[str, Any] = dict(
            student_tap='embedding', teacher_tap='embedding', projector=None, teacher_projector=None, loss=None
        )
        for option in cfg:
            if option not in options:
                raise ValueError(unknown_option(f'terms.{name}', 'a term', option, options))
        options.update(cfg)
        if options['loss'] is None:
            raise ValueError(f"terms.{name}: a term needs a 'loss', for example dict(type='RSDLoss').")
        student_tap = resolve_tap(self.student, options.pop('student_tap'), 'student')
        teacher_tap = self.teacher.tap(options.pop('teacher_tap'))
        classes = num_classes(self.student), num_classes(self.teacher.model)
        if (student_tap.per_class or teacher_tap.per_class) and classes[0] != classes[1]:
            raise ValueError(
                f'terms.{name}: a term on logits compares class with class, but the student has '
                f'{classes[0]} classes and the teacher {classes[1]}. Compare embeddings instead, or take '
                'a teacher of the same classes.'
            )
        return DistillTerm(name, student_tap, teacher_tap, **options, context=self._widths_for(options['projector']))

    def _widths_for(self, projector: Any) -> Dict[str, Optional[int]]:
        """Return the widths of the two embeddings, those that a projector has filled in."""
        models: Dict[str, Any] = dict(student=self.student, teacher=self.teacher.model)
        return {
            f'{role}_width': resolve_tap(model, 'embedding', role).channels
            for role, model in models.items()
            if inferred_options(projector, **{f'{role}_width': None})
        }

    def _distinct_taps(self, side: str) -> List[Tap]:
        return list(dict.fromkeys(getattr(term, side) for term in self.terms.values()))

    def forward(
        self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor', **kwargs: Any
    ) -> Union[Dict[str, Tensor], list, Tensor, Tuple[Tensor, ...]]:
        """Distil for ``mode='loss'``; for any other mode run the student.

        Args:
            inputs (Tensor): Images from the data preprocessor, ``(B, C, H, W)``.
            data_samples (list, optional): Their annotations.
            mode (str): ``loss``, ``predict`` or ``tensor``.

        Returns:
            For ``loss`` a dict of the student's losses, each term's weighted value under its name, and each term's
            parts, which are logged and not added to the total. Otherwise what the student returns.
        """
        if self.channels_last and isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == 'loss':
            return self.loss(inputs, data_samples, **kwargs)
        return self.student(inputs, data_samples, mode=mode, **kwargs)

    def loss(self, inputs: Tensor, data_samples: Optional[list] = None, **kwargs: Any) -> Dict[str, Tensor]:
        """Return the losses of a batch; see :meth:`forward`."""
        annotations = self._annotations(data_samples or [])
        # The teacher goes first, while the student's activations are not in memory yet.
        taught = self.teacher(inputs, self.teacher_taps)
        with Recorder(self.student, self.student_taps, 'student') as record:
            losses: Dict[str, Tensor] = self.student(inputs, data_samples, mode='loss', **kwargs)
        own = {tap: record[tap] for tap in self.student_taps}
        if self.observe is not None:
            features = {f"student's {tap}": feature for tap, feature in own.items()}
            self.observe({**features, **{f"teacher's {tap}": feature for tap, feature in taught.items()}})
        for term in self.terms.values():
            values = term(own[term.student_tap], taught[term.teacher_tap], **annotations)
            taken = values.keys() & {*losses, 'loss', 'loss_task'}
            if taken:
                raise ValueError(f'{sorted(taken)[0]!r} is the name of two losses; rename the term {term.name!r}.')
            losses.update(values)
        return losses

    def _annotations(self, data_samples: list) -> Dict[str, Tensor]:
        """Collect the annotations that the losses take.

        Raises:
            ValueError: If the dataset does not have them.
        """
        wanted = {name: term.name for term in self.terms.values() for name in term.annotations}
        found: Dict[str, Tensor] = {}
        device = next(self.parameters()).device
        if 'gt_labels' in wanted:
            # Batch augmentation makes scores of labels, and keeps the labels beside them.
            key = next((key for key in ('gt_score', 'gt_label') if data_samples and key in data_samples[0]), None)
            if key is None:
                raise ValueError(
                    f"{wanted['gt_labels']}: its loss needs labels, but the images of the batch have none ('gt_label')."
                )
            labels = [getattr(sample, key) for sample in data_samples]
            found['gt_labels'] = (torch.stack(labels) if key == 'gt_score' else torch.cat(labels)).to(device)
        if 'sample_idx' in wanted:
            indices = [sample.get('sample_idx') for sample in data_samples]
            if not indices or None in indices:
                raise ValueError(
                    f"{wanted['sample_idx']}: its loss needs the index of each image in the dataset ('sample_idx' in "
                    "its data sample). MMPretrain's datasets give it; keep it among the meta_keys of PackInputs."
                )
            found['sample_idx'] = torch.tensor(indices)  # on the CPU, where it can be checked at no cost
        return found

    def parse_losses(self, losses: Dict[str, Tensor]) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return the total and the log, in which the student's ``loss`` is called ``loss_task``.

        MMPretrain's heads call their loss ``loss``, as mmengine calls the total, which it would hide in the log.
        """
        return super().parse_losses({'loss_task' if key == 'loss' else key: value for key, value in losses.items()})

    def extract_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Call the student's ``extract_feat``."""
        return self.student.extract_feat(*args, **kwargs)

    def get_layer_depth(self, param_name: str) -> Tuple[int, int]:
        """Return the student's depth of a parameter, for layer-wise learning rates; terms count as its last layer."""
        prefix = 'student.'
        if param_name.startswith(prefix):
            return self.student.get_layer_depth(param_name[len(prefix) :])
        _, layers = self.student.get_layer_depth('head.')
        return layers - 1, layers
