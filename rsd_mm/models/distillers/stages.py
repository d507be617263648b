# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Stages of any network, found by looking at one forward of it.

Methods on intermediate features need, when the model is built, the place, width
and form of a network's four stages, and scale-decoupled distillation the feature
map that is pooled for the classifier. Rather than by a table of architectures
they are found with a probe: one forward of a random image in eval mode, which
leaves the network's state and the random states as they were.
"""

import math
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STAGES = ('stage1', 'stage2', 'stage3', 'stage4')


class Form(NamedTuple):
    """How a representation of image positions lies in a tensor.

    Attributes:
        layout (str): ``NCHW``, ``NHWC``, ``NLC`` (tokens) or ``NCL``.
        channels (int): Its width.
        grid (Tuple[int, int]): Height and width in positions, for the probe.
        prefix (int): How many tokens come before those of the positions (class
            and distillation tokens).
    """

    layout: str
    channels: int
    grid: Tuple[int, int]
    prefix: int = 0

    @property
    def is_map(self) -> bool:
        """Whether it is the feature map of a CNN, rather than tokens."""
        return self.layout == 'NCHW'

    def canonical(self, value: Tensor) -> Tensor:
        """Feature maps as ``(B, C, H, W)``, tokens as ``(B, prefix + L, C)``."""
        if self.layout == 'NHWC':
            return value.flatten(1, 2)
        return value.transpose(1, 2) if self.layout == 'NCL' else value

    def to_map(self, value: Tensor) -> Tensor:
        """The positions of a canonical value as a map ``(B, C, H, W)``.

        Raises:
            ValueError: If the tokens are not those of a square image.
        """
        if self.is_map:
            return value
        value = value[:, self.prefix :]
        batch, length, channels = value.shape
        height, width = self.grid
        if height * width != length:  # another input size than the probe's
            height = width = math.isqrt(length)
        if height * width != length:
            raise ValueError(
                f'{length} tokens are no square image, so where they lie is not known. Methods on feature maps need '
                'square images.'
            )
        return value.transpose(1, 2).reshape(batch, channels, height, width)


def stage_sources(model: nn.Module, role: str) -> List[Tuple[str, Form]]:
    """The modules that end the four stages of a network, and the form of what they give.

    The blocks of a network are the elements of the lists and sequences of its
    backbone. Where their resolution falls (ResNet, MobileNet, Swin, ConvNeXt), a
    stage is the blocks of one resolution, of which the last four are taken.
    Where it stays (ViT, Mixer, ResMLP), the stages are the four quarters of the
    blocks, rounded up, as in OFA-KD (arXiv 2310.19444); with three blocks the last
    one ends two of them.

    Args:
        model (nn.Module): The network.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If four stages can't be found; the message says how to name
            them.
    """
    if model not in _FOUND:
        _FOUND[model] = _find_stages(model, role)
    return _FOUND[model]


_FOUND: 'WeakKeyDictionary[nn.Module, List[Tuple[str, Form]]]' = WeakKeyDictionary()


def _find_stages(model: nn.Module, role: str) -> List[Tuple[str, Form]]:
    trunk_name = next((name for name in ('backbone', 'model') if isinstance(getattr(model, name, None), nn.Module)), '')
    trunk = model.get_submodule(trunk_name)
    while not _blocks(trunk) and len(list(trunk.children())) == 1:  # a wrapper of another backbone
        ((name, trunk),) = trunk.named_children()
        trunk_name = f'{trunk_name}.{name}'.strip('.')
    blocks = [f'{trunk_name}.{name}'.strip('.') for name in _blocks(trunk)]
    found = []
    for path, value in _probe(model, role, blocks):
        form = form_of(value, trunk)
        if form is not None and form.grid[0] * form.grid[1] > 1:
            found.append((path, form))
    by_resolution: Dict[Tuple[int, int], List[Tuple[str, Form]]] = {}
    for path, form in found:
        by_resolution.setdefault(form.grid, []).append((path, form))
    if len(by_resolution) == 1 and len(found) >= 3:
        return [found[(len(found) * quarter + 3) // 4 - 1] for quarter in (1, 2, 3, 4)]
    if len(by_resolution) >= 4:
        return [run[-1] for run in by_resolution.values()][-4:]
    raise ValueError(
        f'{role}: {type(model).__name__} has no four stages that can be told: {len(found)} blocks of '
        f'{len(by_resolution)} resolutions in {trunk_name or "it"!r}. Name the modules instead of '
        f"'stage1' to 'stage4': dict(type='Stage', source='backbone.layers.2')."
    )


def _blocks(trunk: nn.Module) -> List[str]:
    return [
        f'{name}.{index}'
        for name, child in trunk.named_children()
        if isinstance(child, (nn.Sequential, nn.ModuleList))
        for index, _ in child.named_children()
    ]


def source_form(model: nn.Module, source: str, role: str) -> Form:
    """The form of what a module gives.

    Raises:
        ValueError: If it is neither a feature map nor tokens.
    """
    for _, value in _probe(model, role, [source]):
        form = form_of(value, model)
        if form is not None:
            return form
    raise ValueError(
        f'{role}: the output of {source!r} is neither a feature map nor tokens, as a stage has to be. Name the '
        'module of a block.'
    )


def form_of(value: Tensor, model: nn.Module) -> Optional[Form]:
    """The form of a tensor that a network gave, None if it has no positions."""
    if value.ndim == 4:
        _, a, b, c = value.shape
        last = getattr(model, 'output_fmt', '') == 'NHWC' or (a == b and b != c)
        return Form('NHWC', c, (a, b)) if last else Form('NCHW', a, (b, c))
    if value.ndim == 3:
        length = value.shape[1]
        side = math.isqrt(length)
        return Form('NLC', value.shape[2], (side, side), length - side * side)
    return None


class PooledMap(NamedTuple):
    """The feature map whose average, or whose class token, enters the classifier.

    Attributes:
        source (str): The module that gives it.
        form (Form): How it lies.
        tail (Tuple[Tuple[str, int], ...]): What comes between the average and the
            classifier (a LayerNorm in ConvNeXt): modules by path, with the number
            of dimensions of their input.
    """

    source: str
    form: Form
    tail: Tuple[Tuple[str, int], ...]


def find_pooled_map(model: nn.Module, classifier: str, role: str) -> PooledMap:
    """Find the map behind the embedding of a network, by the values in a forward.

    Args:
        model (nn.Module): The network.
        classifier (str): The path of the layer that computes its logits.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If what enters the classifier is neither the average nor the
            first token of a feature map (VGG and others that flatten it).
    """
    calls = list(_probe(model, role, None))
    layer: Any = model.get_submodule(classifier)
    vector, width = None, layer.in_features
    tail: List[Tuple[str, int]] = []
    for path, given, output in reversed(calls):
        if path == classifier:
            vector = given
        if vector is None or given is None or list(model.get_submodule(path).children()):
            continue
        same_size = given.numel() == output.numel() == vector.numel()
        if same_size and _equal(output, vector) and not _equal(given, output):
            tail.insert(0, (path, given.ndim))
            vector = given
    if vector is not None and not any(isinstance(model.get_submodule(path), _BatchNorm) for path, _ in tail):
        vector = vector.flatten(1)
        for path, _, output in reversed(calls):
            for form in _forms_of_width(output, width):
                tokens = form.canonical(output)
                averages = [form.to_map(tokens).mean(dim=(2, 3))] + [tokens[:, 0]] * (form.prefix > 0)
                if any(_same(average, vector) for average in averages):
                    return PooledMap(path, form, tuple(tail))
    raise ValueError(
        f'{role}: what enters the classifier {classifier!r} of {type(model).__name__} is neither the average nor the '
        'class token of a feature map, so it has no logits of image regions.'
    )


def _forms_of_width(value: Tensor, width: int) -> List[Form]:
    shape = value.shape
    forms = []
    if value.ndim == 4:
        forms = [Form('NCHW', shape[1], (shape[2], shape[3])), Form('NHWC', shape[3], (shape[1], shape[2]))]
    elif value.ndim == 3:
        for layout, length, channels in (('NLC', shape[1], shape[2]), ('NCL', shape[2], shape[1])):
            side = math.isqrt(length)
            forms.append(Form(layout, channels, (side, side), length - side * side))
    return [form for form in forms if form.channels == width and form.grid[0] * form.grid[1] > 1]


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.flatten(), b.flatten())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def _probe(model: nn.Module, role: str, paths: Optional[List[str]]) -> List[Any]:
    """Run a forward of two random images in eval mode, and collect outputs in the order of execution.

    With ``paths`` given, pairs of path and output of these modules; otherwise path,
    input and output of every module.
    """
    parameter = next(model.parameters())
    calls: List[Any] = []

    def keep(path: str, args: Any, output: Any) -> None:
        output = _first_tensor(output)
        if output is not None and len(output) == 2:
            calls.append((path, output) if paths is not None else (path, _first_tensor(args), output))

    sizes = _image_sizes(model)
    with _undisturbed(model) as handles:
        for path, module in model.named_modules():
            if path if paths is None else path in paths:
                hook: Any = lambda _, args, output, path=path: keep(path, args, output)  # noqa: E731
                handles.append(module.register_forward_hook(hook))
        for size in sizes:
            calls.clear()
            images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(parameter)
            try:
                model(images)
                return calls
            except Exception as error:
                reason = error
    raise ValueError(
        f'{role}: {type(model).__name__} does not run on an image of {sizes[-1][0]} x {sizes[-1][1]} pixels, with '
        f'which its stages are looked for: {reason}'
    ) from reason


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[List[Any]]:
    """Eval mode without gradient, and a list for hooks; afterwards all is as it was."""
    handles: List[Any] = []
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield handles
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True


def _image_sizes(model: nn.Module) -> List[Tuple[int, int]]:
    """What a network with position embeddings was built for; for others a small size, and the usual one."""
    for module in model.modules():
        for name in ('img_size', 'init_input_size'):
            size = getattr(module, name, None)
            if isinstance(size, int):
                return [(size, size)]
            if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                return [(size[0], size[1])]
    return [(64, 64), (224, 224)]


def _first_tensor(value: Any) -> Optional[Tensor]:
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None
