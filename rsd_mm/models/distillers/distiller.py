# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The generic distiller: a student, a teacher, and named terms between them."""

import inspect
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
from mmengine.model import BaseModel, BaseModule, ModuleDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from rsd_mm.utils.checkpoint import keep_keys_where_nested, load_strictly
from rsd_mm.utils.compile import compile_around, compile_options
from rsd_mm.utils.config import (
    build_model,
    build_part,
    inferred_options,
    resolve_model,
    takes_option,
    unknown_option,
)
from rsd_mm.utils.random_state import keep_random_state

from .taps import Recorder, Tap, num_classes, resolve_tap
from .teacher import Teacher, check_flag

#: What a loss may ask for beside the two representations, as arguments of its ``forward``.
ANNOTATIONS = ('gt_labels', 'sample_idx')


class DistillTerm(BaseModule):
    """One term of the objective: a tap on either side, a projector and a loss.

    The projector's ``in_channels`` and ``out_channels`` are those of the taps;
    given ones have to agree with them. One that takes ``form``, ``student_width`` or
    ``teacher_width`` is told how the positions lie in the student's tap and how wide
    the two embeddings are. Only a projector that takes ``form`` sees the tokens of a
    stage as they are; otherwise they come as a map ``(B, C, H, W)``, without class token.

    What a loss is called with follows from the arguments of its ``forward``. The
    first two are the student's and the teacher's representation. ``gt_labels`` are
    the targets of the batch, ``(B,)``, or ``(B, classes)`` where Mixup, CutMix or the
    dataset makes them soft; ``sample_idx`` the indices of its images in the dataset,
    ``(B,)``, on the CPU; and with ``return_parts`` it also gives values for the log.

    Args:
        name (str): The key of its value among the losses; contains ``loss``.
        student_tap (Tap): What it reads of the student.
        teacher_tap (Tap): What it reads of the teacher.
        loss (dict): A loss that multiplies by a weight of its own.
        projector (dict, optional): A neck for the student's side. Defaults to
            None, for two sides of one width.
        teacher_projector (dict, optional): A neck for the teacher's side, which is
            trained too; both sides then meet in a width of their own. Defaults to
            None.
        context (Dict[str, int], optional): ``student_width`` and ``teacher_width``.

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
                f'The name of a distillation term has to contain "loss", since mmengine adds up the values '
                f'that are called so; received {name!r}. Call it {"loss_" + name!r}.'
            )
        self.name = name
        self.student_tap = student_tap
        self.teacher_tap = teacher_tap
        self.loss = build_part(loss, f'{name}.loss')
        arguments = list(inspect.signature(self.loss.forward).parameters)[2:]
        # A loss that can tell its parts gets them logged.
        self._has_parts = 'return_parts' in arguments
        self.annotations = tuple(option for option in ANNOTATIONS if option in arguments)
        widths = [student_tap.channels, teacher_tap.channels]
        self.teacher_projector = None
        if teacher_projector is not None:
            self.teacher_projector = self._build_projector('teacher_projector', teacher_projector, widths[1], None)
            widths[1] = getattr(self.teacher_projector, 'out_channels', None)
        self.projector = None
        if projector is not None:
            self.projector = self._build_projector(
                'projector', projector, *widths, form=student_tap.form, **context or {}
            )
        elif getattr(self.loss, 'equal_widths', True) and None not in widths and widths[0] != widths[1]:
            raise ValueError(
                f"{name}: the student's {student_tap} has {widths[0]} channels and the teacher's {teacher_tap} "
                f"has {widths[1]}. Give the term a projector, for example dict(type='RSDProjector')."
            )

    def _build_projector(
        self, option: str, cfg: dict, in_channels: Optional[int], out_channels: Optional[int], **context: Any
    ) -> nn.Module:
        inferred = dict(in_channels=in_channels, out_channels=out_channels)
        # A projector of another package may call its widths otherwise, and is told them in the config.
        inferred = {name: width for name, width in inferred.items() if takes_option(cfg, name)}
        self._check_widths(option, cfg, inferred)
        known = {name: width for name, width in inferred.items() if width is not None}
        return build_part(cfg, f'{self.name}.{option}', **known, **inferred_options(cfg, **context))

    def _check_widths(self, part: str, projector: dict, inferred: Dict[str, Optional[int]]) -> None:
        student, teacher = f"student's {self.student_tap}", f"teacher's {self.teacher_tap}"
        sides = dict(in_channels=student, out_channels=teacher)
        if part == 'teacher_projector':
            sides = dict(in_channels=teacher, out_channels='meeting of both sides')
        elif self.teacher_projector is not None:
            sides['out_channels'] = "teacher's projector"
        for option, width in inferred.items():
            given = projector.get(option) if isinstance(projector, dict) else getattr(projector, option, None)
            if given is None and width is None:
                raise ValueError(
                    f'{self.name}.{part}: the width of the {sides[option]} cannot be told before it runs; set {option}.'
                )
            if given is not None and width is not None and given != width:
                raise ValueError(
                    f'{self.name}.{part}: {option}={given}, but the {sides[option]} has {width} channels. '
                    f'Set {width}, or leave {option} out: it is inferred.'
                )

    def init_weights(self) -> None:
        """mmengine's, after which the random numbers go on as if there were no term."""
        with keep_random_state():
            super().init_weights()

    def forward(self, student: Tensor, teacher: Tensor, **annotations: Tensor) -> Dict[str, Tensor]:
        """The term's value, and the parts of it that are worth a log.

        Args:
            student (Tensor): What the student's tap read.
            teacher (Tensor): What the teacher's tap read.
            **annotations: Those of :data:`ANNOTATIONS` that some loss asks for.

        Returns:
            Dict[str, Tensor]: The weighted value under the term's name, and
            unweighted, detached parts under names without ``loss``, so that
            mmengine logs them and does not add them to the total.
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


class _Late:
    """Numbers that are copied to the CPU without waiting for their device, to be read when they are there."""

    def __init__(self, values: Tensor) -> None:
        # torch.cuda.Event and its like; without one, reading waits for all that the device has been given.
        event = getattr(getattr(torch, values.device.type, None), 'Event', None)
        self._event = event() if event is not None and values.device.type != 'cpu' else None
        self._values = values
        if self._event is not None:
            self._values = values.to('cpu', non_blocking=True)
            self._event.record()

    def read(self) -> list:
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()

    def __reduce__(self) -> Tuple[Any, ...]:  # an event is neither copied nor pickled
        return _Late, (torch.tensor(self.read()),)


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains a student with the help of a frozen teacher.

    In training, a batch goes once through the student, whose own data
    preprocessor, batch augmentation, head and loss work as ever, and once through
    the teacher, which sees the same (mixed) images in its own normalization. Each
    term compares what its two taps read in these two forwards, and adds its value
    to the student's losses. Everywhere else the distiller is its student.

    Its state dict, parameters and modules are those of the student (``student.``)
    and of the terms (``terms.``), never of the teacher; see :class:`Teacher`.

    Args:
        student (dict): The student: an inline model, or ``dict(cfg_path=...,
            pretrained=False, checkpoint=None, ...)``; see
            :func:`~rsd_mm.utils.resolve_model`. A checkpoint is loaded strictly.
        teacher (dict): The teacher, in the same forms, and with the options of
            :class:`Teacher`.
        terms (Dict[str, dict]): The terms by name. A name contains ``loss``; a
            term is ``dict(student_tap='embedding', teacher_tap='embedding',
            projector=None, teacher_projector=None, loss=dict(type=...))``.
        data_preprocessor (dict, optional): The student's data preprocessor, which
            a Runner fills in from the config's own. Defaults to None.
        init_cfg (dict, optional): Of mmengine's ``BaseModule``.
        channels_last (bool): Images and the student's convolutions in the layout
            that tensor cores want; the teacher has the same option. Defaults to
            False.
        compile (bool | dict): True, or the arguments of ``torch.compile``, for the
            terms and for all parts of the student in which nothing is read; the
            teacher has the same option. Defaults to False.

    Raises:
        ValueError: If the parts do not fit together. Nothing is left for later.
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
            model._is_init = True  # mmengine would initialize it again
        keep_keys_where_nested(model)
        # Neither shall change the student's initial weights, so that methods can be compared.
        with keep_random_state():
            # Not a submodule: what walks over modules, parameters or state must not meet the teacher.
            object.__setattr__(self, 'teacher', Teacher(teacher, model.data_preprocessor))
            # mmengine's, through which a projector's init_cfg is reached.
            self.terms = ModuleDict({name: self._build_term(name, cfg) for name, cfg in terms.items()})
        self._student_taps = self._taps('student_tap')
        self._teacher_taps = self._taps('teacher_tap')
        self.channels_last = check_flag(channels_last, 'model', 'channels_last')
        if channels_last:
            model.to(memory_format=torch.channels_last)
        if options:
            compile_around(model, [source for tap in self._student_taps for source in tap.sources], options)
            for term in self.terms.values():
                term.compile(**options)
        self._unseen: Optional[Tuple[List[str], _Late]] = None
        #: Is shown what was read of both sides, by name, in place of the check for NaN and inf. Set by HealthHook.
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
        if {'logits', 'scale_logits'} & {student_tap.name, teacher_tap.name}:
            classes = num_classes(self.student), num_classes(self.teacher.model)
            if classes[0] != classes[1]:
                raise ValueError(
                    f'terms.{name}: a term on logits compares class with class, but the student has '
                    f'{classes[0]} classes and the teacher {classes[1]}. Compare embeddings instead, or take '
                    'a teacher of the same classes.'
                )
        return DistillTerm(name, student_tap, teacher_tap, **options, context=self._embedding_widths(options))

    def _embedding_widths(self, options: Dict[str, Any]) -> Dict[str, Any]:
        """The widths of the two embeddings, if the term's projector asks for them."""
        asked = inferred_options(options['projector'], student_width=None, teacher_width=None)
        models = dict(student_width=(self.student, 'student'), teacher_width=(self.teacher.model, 'teacher'))
        return {name: resolve_tap(models[name][0], 'embedding', models[name][1]).channels for name in asked}

    def _taps(self, side: str) -> List[Tap]:
        return list(dict.fromkeys(getattr(term, side) for term in self.terms.values()))

    def forward(
        self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor', **kwargs: Any
    ) -> Union[Dict[str, Tensor], list, Tensor, Tuple[Tensor, ...]]:
        """The distillation for ``mode='loss'``, and the student itself for any other.

        Args:
            inputs (Tensor): Images from the data preprocessor, ``(B, C, H, W)``.
            data_samples (list, optional): Their annotations.
            mode (str): ``loss``, ``predict`` or ``tensor``.

        Returns:
            For ``loss`` a dict of the student's losses, each term's weighted value
            under its name, and each term's parts, which are logged and not added
            to the total. Otherwise what the student returns.
        """
        if self.channels_last and isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == 'loss':
            return self.loss(inputs, data_samples, **kwargs)
        return self.student(inputs, data_samples, mode=mode, **kwargs)

    def loss(self, inputs: Tensor, data_samples: Optional[list] = None, **kwargs: Any) -> Dict[str, Tensor]:
        """The losses of a batch; see :meth:`forward`.

        Raises:
            ValueError: If a representation holds NaN or inf; the message names
                the side. On an accelerator the check would stall the device, so
                it is made at the next step.
        """
        annotations = self._annotations(data_samples or [])
        # The teacher goes first, while the student's activations are not in memory yet.
        taught = self.teacher(inputs, self._teacher_taps)
        with Recorder(self.student, self._student_taps, 'student') as record:
            losses: Dict[str, Tensor] = self.student(inputs, data_samples, mode='loss', **kwargs)
        read = {tap: record[tap] for tap in self._student_taps}
        (self.observe or self._check_finite)(
            {
                **{f"student's {tap}": read[tap] for tap in self._student_taps},
                **{f"teacher's {tap}": taught[tap] for tap in self._teacher_taps},
            }
        )
        for term in self.terms.values():
            values = term(read[term.student_tap], taught[term.teacher_tap], **annotations)
            taken = values.keys() & {*losses, 'loss', 'loss_task'}
            if taken:
                raise ValueError(f'{sorted(taken)[0]!r} is the name of two losses; rename the term {term.name!r}.')
            losses.update(values)
        return losses

    def _annotations(self, data_samples: list) -> Dict[str, Tensor]:
        """What the losses ask for of :data:`ANNOTATIONS`.

        Raises:
            ValueError: If the dataset does not give it; the message says how it does.
        """
        asked = {name: term.name for term in self.terms.values() for name in term.annotations}
        found: Dict[str, Tensor] = {}
        device = next(self.parameters()).device
        if 'gt_labels' in asked:
            # Batch augmentation turns labels into scores, and leaves the labels of before beside them.
            key = next((key for key in ('gt_score', 'gt_label') if data_samples and key in data_samples[0]), None)
            if key is None:
                raise ValueError(
                    f"{asked['gt_labels']}: its loss needs labels, but the images of the batch have none ('gt_label')."
                )
            labels = [getattr(sample, key) for sample in data_samples]
            found['gt_labels'] = (torch.stack(labels) if key == 'gt_score' else torch.cat(labels)).to(device)
        if 'sample_idx' in asked:
            indices = [sample.get('sample_idx') for sample in data_samples]
            if not indices or None in indices:
                raise ValueError(
                    f"{asked['sample_idx']}: its loss needs the index of each image in the dataset ('sample_idx' in "
                    "its data sample). MMPretrain's datasets give it; keep it among the meta_keys of PackInputs."
                )
            found['sample_idx'] = torch.tensor(indices)  # on the CPU, where looking at them costs nothing
        return found

    def parse_losses(self, losses: Dict[str, Tensor]) -> Tuple[Tensor, Dict[str, Tensor]]:
        """The total, and what is logged: mmengine's, with the student's ``loss`` logged as ``loss_task``.

        MMPretrain's heads call their loss ``loss``, as mmengine calls the total;
        under one name the log would hide the total.
        """
        return super().parse_losses({'loss_task' if key == 'loss' else key: value for key, value in losses.items()})

    def _check_finite(self, features: Dict[str, Tensor]) -> None:
        flags = torch.stack([torch.isfinite(feature.detach()).all() for feature in features.values()])
        due: Optional[Tuple[List[str], _Late]] = (list(features), _Late(flags))
        if flags.device.type != 'cpu':
            due, self._unseen = self._unseen, due
        if due is None:
            return
        for name, finite in zip(due[0], due[1].read()):
            if not finite:
                raise ValueError(
                    f"The {name} holds NaN or inf. If it is the student's, lower the learning rate or the "
                    "loss weight, or train in higher precision; if it is the teacher's, check its weights and "
                    'its input normalization.'
                )

    def extract_feat(self, *args: Any, **kwargs: Any) -> Any:
        """The student's ``extract_feat``."""
        return self.student.extract_feat(*args, **kwargs)

    def get_layer_depth(self, param_name: str) -> Tuple[int, int]:
        """The student's depth of a parameter, for layer-wise learning rates; terms count as its last layer."""
        prefix = 'student.'
        if param_name.startswith(prefix):
            return self.student.get_layer_depth(param_name[len(prefix) :])
        _, layers = self.student.get_layer_depth('head.')
        return layers - 1, layers


@MODELS.register_module()
class TeacherClassifier(BaseModel):
    """A distiller's teacher as a classifier of its own, to see how good it is where it teaches.

    Images take the distiller's way: the student's data preprocessor, then the
    input bridge. A teacher that reaches its known accuracy here sees what it was
    trained for.

    Args:
        distiller (dict | Distiller): The distiller.
        data_preprocessor (dict, optional): The distiller's, which a Runner fills
            in from the config's own. Defaults to None.

    Raises:
        ValueError: If the layer that computes the teacher's logits can't be told.
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
        """Logits ``(B, classes)`` for ``mode='tensor'``; for ``predict`` the samples with the teacher's predictions."""
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
