# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The four stages of a network, located by a probe."""

from typing import Dict, List, Tuple
from weakref import WeakKeyDictionary

from torch import nn

from .form import Form, form_of
from .probe import probe

STAGES = ('stage1', 'stage2', 'stage3', 'stage4')


def stage_sources(model: nn.Module, role: str) -> List[Tuple[str, Form]]:
    """Return the paths of the modules that end the four stages of a network, and the forms of their outputs.

    The blocks of a network are the elements of the lists and sequences of its backbone, or else its children
    (MobileNetV3). If their resolution falls (ResNet, MobileNet, Swin, ConvNeXt), a stage is the blocks of one
    resolution, and the last four are taken. If it is constant (ViT, Mixer, ResMLP), the stages are the four quarters of
    the blocks, rounded up, as in OFA-KD (arXiv 2310.19444); of three blocks the last one ends two stages.

    Args:
        model (nn.Module): The network.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If it has no four stages; the message says how to name them.
    """
    if model not in _STAGES:
        _STAGES[model] = _locate_stages(model, role)
    return _STAGES[model]


_STAGES: 'WeakKeyDictionary[nn.Module, List[Tuple[str, Form]]]' = WeakKeyDictionary()


def _locate_stages(model: nn.Module, role: str) -> List[Tuple[str, Form]]:
    trunk_name = next((name for name in ('backbone', 'model') if isinstance(getattr(model, name, None), nn.Module)), '')
    trunk = model.get_submodule(trunk_name)
    while not _blocks(trunk) and len(list(trunk.children())) == 1:  # a wrapper of another backbone
        ((name, trunk),) = trunk.named_children()
        trunk_name = f'{trunk_name}.{name}'.strip('.')
    blocks: List[Tuple[str, Form]] = []
    names = _blocks(trunk) or [name for name, _ in trunk.named_children()]
    for call in probe(model, role, [f'{trunk_name}.{name}'.strip('.') for name in names]):
        form = form_of(call.output, trunk)
        if form is not None and form.grid[0] * form.grid[1] > 1:
            blocks.append((call.path, form))
    by_resolution: Dict[Tuple[int, int], List[Tuple[str, Form]]] = {}
    for path, form in blocks:
        by_resolution.setdefault(form.grid, []).append((path, form))
    if len(by_resolution) == 1 and len(blocks) >= 3:
        return [blocks[(len(blocks) * quarter + 3) // 4 - 1] for quarter in (1, 2, 3, 4)]
    if len(by_resolution) >= 4:
        return [run[-1] for run in by_resolution.values()][-4:]
    raise ValueError(
        f'{role}: {type(model).__name__} has no four stages that can be located: {len(blocks)} blocks of '
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
    """Return the form of a module's output.

    Raises:
        ValueError: If it is neither a feature map nor tokens.
    """
    for call in probe(model, role, [source]):
        form = form_of(call.output, model)
        if form is not None:
            return form
    raise ValueError(
        f'{role}: the output of {source!r} is neither a feature map nor tokens, as a stage has to be. Name the '
        'module of a block.'
    )
