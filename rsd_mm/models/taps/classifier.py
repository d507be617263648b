# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Which layer of a network computes its logits."""

from typing import Optional, Tuple

from torch import nn


def classifier_layers(model: nn.Module, role: str = 'model') -> Tuple[str, ...]:
    """Return the paths of the layers that compute the logits, nearly always one.

    These are the linear layers with as many outputs as there are classes: those of a head (or of several heads) if
    there are any, else one anywhere (VGG and many of timm's models keep it elsewhere). If no linear layer fits, it may
    be a 1 x 1 convolution (timm's DLA and DPN).

    Raises:
        ValueError: If there is no such layer, or if it is ambiguous.
    """
    classes = num_classes(model)
    modules = dict(model.named_modules())
    fitting = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    fitting = [name for name in fitting if classes in (None, modules[name].out_features)]
    if not fitting and classes is not None:
        convolutions = [name for name, module in modules.items() if getattr(module, 'kernel_size', None) == (1, 1)]
        fitting = [name for name in convolutions if modules[name].out_channels == classes]
    of_head = [name for name in fitting if any(part.startswith('head') for part in name.split('.'))]
    if len(of_head or fitting) == 1:
        return tuple(of_head or fitting)
    # Side by side, none feeding on logits; a hidden layer could have that width by chance.
    if of_head and classes is not None and all(width_of(modules[name], True) != classes for name in of_head):
        return tuple(of_head)
    found = ', '.join(sorted(of_head or fitting)) or 'none'
    raise ValueError(
        f'{role}: cannot tell which layer of {type(model).__name__} computes its logits'
        f'{f" for {classes} classes" if classes else ""}; linear layers that could: {found}. Name the '
        "embedding instead of 'embedding', for example dict(type='ModuleInputs', source='head.fc')."
    )


def num_classes(model: nn.Module) -> Optional[int]:
    """Return the number of classes of a classifier, None if it does not state it."""
    # MMPretrain's heads, backbones that hold a classifier themselves (VGG), models of timm and of transformers,
    # the model itself, and what its data is said to have (ViG's head keeps no number).
    for owner in ('head', 'backbone', 'model', '', 'data_preprocessor'):
        part = getattr(model, owner, None) if owner else model
        for name in ('num_classes', 'num_labels'):
            classes = getattr(part, name, None)
            if isinstance(classes, int) and classes > 0:
                return classes
    return None


def width_of(module: nn.Module, inputs: bool) -> Optional[int]:
    """Return the width of a module's input or output, None if it does not state it."""
    side = 'in' if inputs else 'out'
    for name in (f'{side}_features', f'{side}_channels', 'num_features'):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None
