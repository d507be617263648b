# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The teacher: images in, detached representations out."""

import contextlib
import inspect
from typing import Any, ContextManager, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from rsd_mm.models.reference import ModelReference, build_model, resolve_model
from rsd_mm.models.taps import Recorder, Tap, num_classes, resolve_tap
from rsd_mm.utils.checks import check_flag
from rsd_mm.utils.weights import load_strictly

from .compile import compile_around, compile_options
from .input_bridge import InputBridge, reverses_channels

#: What a teacher may compute in, whatever its student does.
PRECISIONS = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)


class Teacher(nn.Module):
    """A frozen, pretrained network, used for inference only.

    It is always in eval mode, drop path and dropout included, has no gradients, and follows the device of the images
    that it is given.

    A distiller holds it as a plain attribute rather than as a submodule, so what walks over a model's modules,
    parameters or state (optimizer, DDP, checkpoints, EMA, mmengine's initial broadcast) does not meet it. Copies of a
    distiller share it, since it never changes.

    Args:
        model (dict): The model: inline, or ``dict(cfg_path=..., pretrained=True, checkpoint=...)``, see
            :func:`~rsd_mm.models.reference.resolve_model`.
        student_preprocessor (nn.Module): The student's data preprocessor, whose normalization is bridged. A teacher
            whose config has none is taken to be normalized like the student.
        allow_random_weights (bool): Run without weights, for a test. Defaults to False.
        input_size (int | Tuple[int, int], optional): Side, or height and width, that images are resized to. Defaults to
            None, the student's size.
        flip_channels (bool, optional): Whether it sees BGR where the student sees RGB, or vice versa. Defaults to None:
            the preprocessor of an inline teacher describes the run's images like the student's does; a teacher of
            another config file sees what that file's own images and preprocessor make (BGR for MMPretrain's RegNet and
            MobileViT, RGB for nearly all others), and the student RGB.
        precision (str, optional): ``'bfloat16'``, ``'float16'`` or ``'float32'``, in which it computes by autocast
            whatever the student trains in. Defaults to None, as the student. For this and the following options see
            docs/performance.md.
        channels_last (bool): Memory format of its images and convolutions. Defaults to False.
        compile (bool | dict): True, or the arguments of ``torch.compile``, for all of its parts in which nothing is
            read. Defaults to False.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or does not fit in every key and shape.
        ValueError: If it has no weights and ``allow_random_weights`` is False, or if an option is wrong.
    """

    def __init__(
        self,
        model: Dict[str, Any],
        student_preprocessor: nn.Module,
        allow_random_weights: bool = False,
        input_size: Union[int, Tuple[int, int], None] = None,
        flip_channels: Optional[bool] = None,
        precision: Optional[str] = None,
        channels_last: bool = False,
        compile: Union[bool, dict] = False,
    ) -> None:
        super().__init__()
        size = _pair(input_size)
        if flip_channels not in (None, True, False):
            raise ValueError(
                f'teacher: flip_channels is True, False or None (told by the config), received {flip_channels!r}.'
            )
        if precision not in (None, *PRECISIONS):
            raise ValueError(
                f"teacher: precision is one of {', '.join(map(repr, PRECISIONS))}, or None for the student's, received "
                f'{precision!r}.'
            )
        self.precision = precision
        self.channels_last = check_flag('teacher: channels_last', channels_last)
        self._compile = compile_options(compile, 'teacher')
        self._compiled: Optional[List[str]] = None
        self._sources: Dict[str, None] = {}
        reference = resolve_model(model, 'teacher')
        reference.model.pop('train_cfg', None)  # batch augmentations, which it gets from the student
        #: Where it comes from, for logs and messages.
        self.origin = reference.origin
        self.checkpoint = reference.checkpoint or _take_checkpoint(reference.model)
        #: Whether it has the weights of its package or of a checkpoint, rather than random ones.
        self.has_weights = self.checkpoint is not None or reference.model.get('pretrained') is True
        if not self.has_weights and not allow_random_weights:
            raise ValueError(
                f'teacher: {reference.origin} has no weights, and a random teacher teaches nothing. Set '
                "'checkpoint' to a path or URL, or pretrained=True with a cfg_path of MMPretrain, or, for a "
                'test run, allow_random_weights=True.'
            )
        self.model = build_model(reference, 'teacher')
        if self.checkpoint is not None:
            load_strictly(self.model, self.checkpoint, 'teacher')
        elif self.has_weights and not allow_random_weights:
            _check_timm_classifier(self.model, reference.origin)
        self.bridge = _bridge(reference, self.model, student_preprocessor, size, flip_channels)
        self.requires_grad_(False)
        self.train(False)
        if self.channels_last:
            network: Any = self.model
            network.to(memory_format=torch.channels_last)
        weights = self.checkpoint or (
            "its package's" if self.has_weights else 'RANDOM, as allow_random_weights=True says'
        )
        normalization = 'its own' if reference.model.get('data_preprocessor') is not None else 'the same as the student'
        print_log(
            f'Teacher: {self.origin}; weights: {weights}; normalization: {normalization}; input bridge: '
            f'{self.bridge.extra_repr()}; precision: {precision or "the same as the student"}',
            logger='current',
        )

    @classmethod
    def from_config(cls, cfg: Dict[str, Any], student_preprocessor: nn.Module) -> 'Teacher':
        """Build the ``teacher`` of a config, which has the model's own options and those of this class."""
        if not isinstance(cfg, dict):
            return cls(cfg, student_preprocessor)
        own = list(inspect.signature(cls).parameters)[2:]
        options = {name: cfg[name] for name in own if name in cfg}
        model = {name: value for name, value in cfg.items() if name not in own}
        return cls(model, student_preprocessor, **options)

    def tap(self, spec: Union[str, dict]) -> Tap:
        """Locate the tap of a config in the teacher.

        Raises:
            ValueError: If there is no such place, or if it lies within a part that is already compiled.
        """
        tap = resolve_tap(self.model, spec, 'teacher')
        self._sources.update(dict.fromkeys(tap.sources))
        for part in self._compiled or ():
            if any(source.startswith(f'{part}.') for source in tap.sources):
                raise ValueError(
                    f'teacher: {tap} lies within {part!r}, which is compiled and has run without being read there. '
                    'Leave out compile.'
                )
        return tap

    @torch.no_grad()
    def forward(self, images: Tensor, taps: Sequence[Tap]) -> Dict[Tap, Tensor]:
        """Read representations of a batch in one forward.

        Args:
            images (Tensor): ``(B, C, H, W)``, as the student sees them.
            taps (Sequence[Tap]): What to read, from :meth:`tap`.

        Returns:
            Dict[Tap, Tensor]: Without gradient, in the precision in which the teacher's modules return them.
        """
        if self.bridge.scale.device != images.device:
            self.to(images.device)
        if self._compile and self._compiled is None:
            self._compiled = compile_around(self.model, self._sources, self._compile)
        images = self.bridge(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast(images.device.type):
            with Recorder(self.model, taps, 'teacher') as record:
                self.model(images)
            return {tap: record[tap].detach() for tap in taps}

    def _autocast(self, device: str) -> ContextManager[Any]:
        if self.precision is None:
            return contextlib.nullcontext()
        dtype = PRECISIONS[self.precision]
        return torch.autocast(device, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)

    def train(self, mode: bool = True) -> 'Teacher':
        """Stay in eval mode."""
        return super().train(False)

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return self


def _bridge(
    reference: ModelReference,
    model: Any,
    student_preprocessor: nn.Module,
    size: Optional[Tuple[int, int]],
    flip: Optional[bool],
) -> InputBridge:
    preprocessor = getattr(model, 'data_preprocessor', None)
    if reference.model.get('data_preprocessor') is None or preprocessor is None:
        preprocessor = student_preprocessor
    elif flip is None and reference.loads_bgr is not None:
        flip = reference.loads_bgr != reverses_channels(preprocessor)  # it sees BGR
    return InputBridge(student_preprocessor, preprocessor, size, flip)


def _take_checkpoint(model: Dict[str, Any]) -> Optional[str]:
    """Remove weights given in MMPretrain's ways, to load them strictly instead."""
    if isinstance(model.get('pretrained'), str):
        return model.pop('pretrained')
    init_cfg = model.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained' and 'prefix' not in init_cfg:
        return model.pop('init_cfg')['checkpoint']
    return None


def _check_timm_classifier(model: nn.Module, origin: str) -> None:
    """Raise a ValueError where timm would silently leave a pretrained classifier random: for other classes."""
    inner = getattr(model, 'model', None)
    published = (getattr(inner, 'pretrained_cfg', None) or {}).get('num_classes')
    classes = num_classes(model)
    if published is not None and published != classes:
        raise ValueError(
            f'teacher: the weights that timm publishes for {origin} are for {published} classes; for {classes} its '
            "classifier would be random. Set 'checkpoint' to weights for these classes, or num_classes="
            f'{published} (embeddings may be compared across different classes).'
        )


def _pair(size: Any) -> Optional[Tuple[int, int]]:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f'teacher: input_size is a positive integer or (height, width), received {size!r}.')
    return pair
