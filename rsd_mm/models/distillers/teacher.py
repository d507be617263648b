# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The teacher: images in, detached representations out."""

import contextlib
from typing import Any, ContextManager, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from rsd_mm.utils.checkpoint import load_strictly
from rsd_mm.utils.compile import compile_around, compile_options
from rsd_mm.utils.config import build_model, resolve_model

from .taps import Recorder, Tap, num_classes, resolve_tap

#: What a teacher may compute in, whatever its student does.
PRECISIONS = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)


class InputBridge(nn.Module):
    """Turns the student's normalized images into those that the teacher expects.

    Normalization is undone and redone in one affine step per channel,
    ``x * std_s / std_t + (mean_s - mean_t) / std_t``. Mixup and CutMix are
    averages and exchanges of pixels, with which an affine step commutes: the
    teacher sees the very images that the student sees. With equal normalization
    and size, images pass as they are, without a copy.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's data preprocessor.
        size (Tuple[int, int], optional): Height and width that the teacher
            expects, if they differ from the student's. Defaults to None.
        flip (bool, optional): Whether the teacher sees the channels in the
            opposite order (RGB and BGR). Defaults to None: it does if one of the
            preprocessors exchanges the loaded channels and the other does not.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        size: Optional[Tuple[int, int]] = None,
        flip: Optional[bool] = None,
    ) -> None:
        super().__init__()
        (mean_s, std_s, exchanges_s), (mean_t, std_t, exchanges_t) = _normalization(student), _normalization(teacher)
        self.flip = exchanges_s != exchanges_t if flip is None else flip
        if self.flip:  # into the teacher's order of channels
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        # Part of the config rather than of what is learned: not in the state dict.
        self.register_buffer('scale', (std_s / std_t).float(), persistent=False)
        self.register_buffer('shift', ((mean_s - mean_t) / std_t).float(), persistent=False)
        self.renormalize = not (torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t))
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` as the student sees them to ``(B, C, H', W')`` for the teacher."""
        if self.flip and images.shape[1] == 3:
            images = images.flip(1)
        if self.renormalize:
            images = torch.addcmul(self.shift.to(images.dtype), images, self.scale.to(images.dtype))
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode='bicubic', antialias=True)
        return images

    def extra_repr(self) -> str:
        return f'renormalize={self.renormalize}, flip={self.flip}, size={self.size}'


def _normalization(preprocessor: Any) -> Tuple[Tensor, Tensor, bool]:
    """Mean and std, ``(C, 1, 1)`` in float64 in the model's order, and whether loaded channels are exchanged."""
    mean, std = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = preprocessor.mean.double().cpu(), preprocessor.std.double().cpu()
    # ClsDataPreprocessor says to_rgb, mmengine's ImgDataPreprocessor whether it exchanges channels.
    exchanges = getattr(preprocessor, 'to_rgb', getattr(preprocessor, '_channel_conversion', False))
    return mean, std, bool(exchanges)


class Teacher(nn.Module):
    """A frozen, pretrained network that only looks.

    It is always in eval mode, whatever ``train()`` is called with (drop path and
    dropout included), has no gradients, and follows the device of the images
    that it is given, so it need not be moved along with the student.

    A distiller holds it as a plain attribute rather than as a submodule: what
    walks over a model's modules, parameters or state (optimizer, DDP, checkpoints,
    EMA, mmengine's initial broadcast) does not meet it. Copies of a distiller
    share it, since it never changes.

    Args:
        model (dict): The model: inline, or ``dict(cfg_path=..., pretrained=True,
            checkpoint=...)``, see :func:`~rsd_mm.utils.resolve_model`. Also taken
            here: ``allow_random_weights`` (default False), to run without
            weights, for a test; ``input_size`` (default None), the side or
            (height, width) that images are resized to for it;
            ``flip_channels``, whether it sees BGR where the student sees RGB or
            the other way round. Defaults to None, to tell by the config: an
            inline teacher's preprocessor describes this run's images like the
            student's does; a teacher of another config file sees what that file's
            own images and preprocessor make (BGR for MMPretrain's RegNet and
            MobileViT, RGB for nearly all others), and the student RGB.
            For speed, see docs/performance.md: ``precision``, ``'bfloat16'``,
            ``'float16'`` or ``'float32'``, in which it computes by autocast
            whatever the student trains in (default None, as the student);
            ``channels_last`` (default False), its layout of images and
            convolutions; ``compile``, True or the arguments of ``torch.compile``,
            for all of its parts in which nothing is read (default False).
        student_preprocessor (nn.Module): The student's data preprocessor, whose
            normalization is bridged. A teacher whose config has none is taken to
            be normalized like the student.

    Raises:
        CheckpointError: If the checkpoint can't be read, or does not fit in every
            key and shape.
        ValueError: If it has no weights and does not say that it needs none, or
            if an option is wrong.
    """

    def __init__(self, model: Dict[str, Any], student_preprocessor: nn.Module) -> None:
        super().__init__()
        cfg = dict(model)
        random_weights = cfg.pop('allow_random_weights', False)
        size = _pair(cfg.pop('input_size', None))
        flip = cfg.pop('flip_channels', None)
        if flip not in (None, True, False):
            raise ValueError(f'teacher: flip_channels is True, False or None (told by the config), received {flip!r}.')
        self.precision = cfg.pop('precision', None)
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(
                f"teacher: precision is one of {', '.join(map(repr, PRECISIONS))}, or None for the student's, received "
                f'{self.precision!r}.'
            )
        self.channels_last = check_flag(cfg.pop('channels_last', False), 'teacher', 'channels_last')
        self._compile = compile_options(cfg.pop('compile', False), 'teacher')
        self._compiled: Optional[List[str]] = None
        self._sources: Dict[str, None] = {}
        reference = resolve_model(cfg, 'teacher')
        reference.model.pop('train_cfg', None)  # batch augmentations, which it gets from the student
        own_preprocessor = reference.model.get('data_preprocessor') is not None
        checkpoint = reference.checkpoint or _take_checkpoint(reference.model)
        #: Whether it is what its package or a checkpoint says, and not random.
        self.has_weights = checkpoint is not None or reference.model.get('pretrained') is True
        if not self.has_weights and not random_weights:
            raise ValueError(
                f'teacher: {reference.origin} has no weights, and a random teacher teaches nothing. Set '
                "'checkpoint' to a path or URL, or pretrained=True with a cfg_path of MMPretrain, or, for a "
                'test run, allow_random_weights=True.'
            )
        self.model = build_model(reference, 'teacher')
        if checkpoint is not None:
            load_strictly(self.model, checkpoint, 'teacher')
        elif self.has_weights and not random_weights:
            _check_timm_classifier(self.model, reference.origin)
        preprocessor = getattr(self.model, 'data_preprocessor', None)
        if not own_preprocessor or preprocessor is None:
            preprocessor = student_preprocessor
        elif flip is None and reference.loads_bgr is not None:
            sees_rgb = reference.loads_bgr == _normalization(preprocessor)[2]
            flip = not sees_rgb
        self.bridge = InputBridge(student_preprocessor, preprocessor, size, flip)
        self.requires_grad_(False)
        self.train(False)
        if self.channels_last:
            network: Any = self.model
            network.to(memory_format=torch.channels_last)
        #: Where it and its weights come from, for logs and messages.
        self.origin = reference.origin
        self.checkpoint = checkpoint
        weights = checkpoint or ("its package's" if self.has_weights else 'RANDOM, as allow_random_weights=True says')
        print_log(
            f'Teacher: {self.origin}; weights: {weights}; normalization: '
            f'{"its own" if own_preprocessor else "the same as the student"}; input bridge: {self.bridge.extra_repr()}'
            f'; precision: {self.precision or "the same as the student"}',
            logger='current',
        )

    def tap(self, spec: Union[str, dict]) -> Tap:
        """Find the place in the teacher that a tap of a config names.

        Raises:
            ValueError: If there is no such place, or if it lies within a part that is compiled already.
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
        """Read representations of a batch, in one forward.

        Args:
            images (Tensor): ``(B, C, H, W)``, as the student sees them.
            taps (Sequence[Tap]): What to read, from :meth:`tap`.

        Returns:
            Dict[Tap, Tensor]: What was read, without gradient, in the precision in
            which the teacher's modules give it.
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


def check_flag(value: Any, role: str, option: str) -> bool:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f'{role}: {option} is True or False, received {value!r}.')
    return value


def _take_checkpoint(model: Dict[str, Any]) -> Optional[str]:
    """Weights given in MMPretrain's ways, taken out so that they are loaded strictly instead."""
    if isinstance(model.get('pretrained'), str):
        return model.pop('pretrained')
    init_cfg = model.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained' and 'prefix' not in init_cfg:
        return model.pop('init_cfg')['checkpoint']
    return None


def _check_timm_classifier(model: nn.Module, origin: str) -> None:
    """timm leaves the classifier of a pretrained model random where the classes differ, without a word."""
    inner = getattr(model, 'model', None)
    published = (getattr(inner, 'pretrained_cfg', None) or {}).get('num_classes')
    classes = num_classes(model)
    if published is not None and published != classes:
        raise ValueError(
            f'teacher: the weights that timm publishes for {origin} tell {published} classes apart; for {classes} its '
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
