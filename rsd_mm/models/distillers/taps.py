# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Taps: where in a network a representation is read.

A tap is written in a config as

- ``'embedding'``: the input of the layer that computes the logits, the vector
  that the literature calls penultimate or pre-logits;
- ``'logits'``: the output of that layer. A head with several such layers
  (distilled DeiT and LeViT have one for each of two tokens, Conformer one for
  each branch) is read at all of them: what they take or give is averaged, as
  these heads average their predictions, or concatenated if the widths differ;
- ``'stage1'`` to ``'stage4'``: the end of a stage of the network, as a feature map
  ``(B, C, H, W)`` or tokens ``(B, prefix + L, C)``, found by
  :func:`~rsd_mm.models.distillers.stages.stage_sources`; or
  ``dict(type='Stage', source=PATH)``, for the output of a module of your choice;
- ``dict(type='ScaleLogits', scales=(1, 2, 4))``: logits of image regions,
  ``(B, M, classes)``. The map that is averaged for the classifier is averaged
  over the cells of a 2 x 2, 4 x 4, ... grid instead, and each cell classified like a
  whole image. Scale 1, which comes first, is the network's own logits. For a network
  that classifies by its class token the cells are of the other tokens;
- any other string: the path of a module, whose output is read;
- ``dict(type='ModuleInputs' | 'ModuleOutputs', source=PATH, data_idx=None,
  record_idx=None)``: the input or output of a module in mmrazor's words, of which
  ``data_idx`` selects one where there are several, and ``record_idx`` one run of a
  module that runs several times in a forward.

Reading happens through forward hooks that exist for one forward only, so that
the forward which computes the task loss serves the distillation as well, and a
model carries no trace of having been tapped.
"""

import difflib
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .stages import STAGES, Form, find_pooled_map, source_form, stage_sources

_KINDS = ('ModuleInputs', 'ModuleOutputs')


class Tap(NamedTuple):
    """A place in a network.

    Attributes:
        name (str): How the config calls it.
        sources (Tuple[str, ...]): The path of the module, or of several.
        inputs (bool): Whether the module's input is read, rather than its output.
        data_idx (int, optional): Which of several inputs or outputs.
        record_idx (int, optional): Which of several runs in a forward.
        channels (int, optional): The width of what is read, where the module
            tells it.
        form (Form, optional): How the positions lie in it, if it is a stage or a
            map of which regions are classified.
        scales (Tuple[int, ...]): The grids of regions that are classified, if any.
        tail (Tuple[Tuple[str, int], ...]): What classifies a region; see
            :class:`~rsd_mm.models.distillers.stages.PooledMap`.
    """

    name: str
    sources: Tuple[str, ...]
    inputs: bool
    data_idx: Optional[int] = None
    channels: Optional[int] = None
    record_idx: Optional[int] = None
    form: Optional[Form] = None
    scales: Tuple[int, ...] = ()
    tail: Tuple[Tuple[str, int], ...] = ()

    def as_map(self, value: Tensor) -> Tensor:
        """A stage as a feature map ``(B, C, H, W)`` of its positions, anything else as it is."""
        return value if self.form is None or self.scales else self.form.to_map(value)

    def __str__(self) -> str:
        return f'{self.name} ({"input" if self.inputs else "output"} of {" and ".join(map(repr, self.sources))})'


def resolve_tap(model: nn.Module, spec: Union[str, dict], role: str) -> Tap:
    """Find the place that a tap of a config names.

    Args:
        model (nn.Module): The network.
        spec (str | dict): The tap, see the module's docstring.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If there is no such place, or if the classifier of the
            network, which ``embedding`` and ``logits`` need, can't be told.
    """
    if isinstance(spec, dict) and spec.get('type') == 'ScaleLogits':
        return _scale_logits_tap(model, spec, role)
    if isinstance(spec, dict) and spec.get('type') == 'Stage':
        if set(spec) != {'type', 'source'}:
            raise ValueError(f"{role}: a stage is dict(type='Stage', source=PATH), received {dict(spec)!r}.")
        _check_path(model, spec['source'], role)
        form = source_form(model, spec['source'], role)
        return Tap(spec['source'], (spec['source'],), False, 0, form.channels, form=form)
    if spec in STAGES:
        source, form = stage_sources(model, role)[STAGES.index(spec)]
        return Tap(spec, (source,), False, 0, form.channels, form=form)
    if isinstance(spec, dict):
        if spec.get('type') not in _KINDS or not isinstance(spec.get('source'), str):
            raise ValueError(
                f"{role}: a tap given as a dict is dict(type='ModuleInputs' | 'ModuleOutputs', "
                f'source=PATH, data_idx=None, record_idx=None), received {dict(spec)!r}.'
            )
        options = ('type', 'source', 'data_idx', 'record_idx')
        unknown = set(spec) - set(options)
        if unknown:
            raise ValueError(f'{role}: a tap has no option {sorted(unknown)[0]!r}. It takes: {", ".join(options)}.')
        name, inputs, data_idx = spec['source'], spec['type'] == 'ModuleInputs', spec.get('data_idx')
        sources: Tuple[str, ...] = (name,)
    elif spec in ('embedding', 'logits'):
        name, inputs, data_idx, sources = spec, spec == 'embedding', None, find_classifiers(model, role)
    elif isinstance(spec, str):
        name, inputs, data_idx, sources = spec, False, None, (spec,)
    else:
        raise ValueError(f'{role}: a tap is a string or a dict, received {spec!r}.')
    _check_path(model, sources[0], role)
    widths = [_channels(model.get_submodule(source), inputs) for source in sources]
    known = [width for width in widths if width is not None]
    channels = None if len(known) < len(widths) else known[0] if len(set(known)) == 1 else sum(known)
    return Tap(name, sources, inputs, data_idx, channels, spec.get('record_idx') if isinstance(spec, dict) else None)


def _check_path(model: nn.Module, path: str, role: str) -> None:
    modules = dict(model.named_modules())
    if not path or path not in modules:
        close = difflib.get_close_matches(path, modules, n=3, cutoff=0.4)
        raise ValueError(
            f"{role}: {type(model).__name__} has no module {path!r} to read. Allowed are 'embedding', 'logits', "
            "'stage1' to 'stage4' and the paths of its modules"
            f'{", for example " + ", ".join(map(repr, close)) if close else ""}.'
        )


def _scale_logits_tap(model: nn.Module, spec: dict, role: str) -> Tap:
    scales = tuple(spec.get('scales', (1, 2, 4)))
    known = {'type', 'scales'}
    if set(spec) - known or scales[:1] != (1,) or not all(isinstance(s, int) and s > 1 for s in scales[1:]):
        raise ValueError(
            f"{role}: the logits of regions are dict(type='ScaleLogits', scales=(1, 2, 4)), with scale 1, the whole "
            f'image, first; received {dict(spec)!r}.'
        )
    classifiers = find_classifiers(model, role)
    if len(classifiers) > 1:
        raise ValueError(f'{role}: {type(model).__name__} has {len(classifiers)} classifiers; regions need one.')
    pooled = find_pooled_map(model, classifiers[0], role)
    width = _channels(model.get_submodule(classifiers[0]), False)
    sources = (pooled.source, classifiers[0])
    return Tap('scale_logits', sources, False, 0, width, form=pooled.form, scales=scales, tail=pooled.tail)


def find_classifiers(model: nn.Module, role: str = 'model') -> Tuple[str, ...]:
    """The paths of the layers that compute the logits, nearly always one.

    They are the linear layers with as many outputs as there are classes: those of
    a head (or of several heads) if there are any, else one anywhere (VGG and many
    of timm's models keep it elsewhere). Where no linear layer fits, a 1 x 1
    convolution may be one (timm's DLA and DPN).

    Raises:
        ValueError: If there is no such layer, or if it can't be told which it is.
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
    if of_head and classes is not None and all(_channels(modules[name], True) != classes for name in of_head):
        return tuple(of_head)
    found = ', '.join(sorted(of_head or fitting)) or 'none'
    raise ValueError(
        f'{role}: cannot tell which layer of {type(model).__name__} computes its logits'
        f'{f" for {classes} classes" if classes else ""}; linear layers that could: {found}. Name the '
        "embedding instead of 'embedding', for example dict(type='ModuleInputs', source='head.fc')."
    )


def num_classes(model: nn.Module) -> Optional[int]:
    """The number of classes that a classifier tells apart, if it says so."""
    # MMPretrain's heads, backbones that hold a classifier themselves (VGG), models of timm and of transformers,
    # the model itself, and what its data is said to have (ViG's head keeps no number).
    for owner in ('head', 'backbone', 'model', '', 'data_preprocessor'):
        part = getattr(model, owner, None) if owner else model
        for name in ('num_classes', 'num_labels'):
            classes = getattr(part, name, None)
            if isinstance(classes, int) and classes > 0:
                return classes
    return None


def _channels(module: nn.Module, inputs: bool) -> Optional[int]:
    side = 'in' if inputs else 'out'
    for name in (f'{side}_features', f'{side}_channels', 'num_features'):
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None


class Recorder:
    """Reads taps during the forwards inside its ``with`` block.

    >>> with Recorder(model, taps) as record:
    ...     losses = model(inputs, data_samples, mode='loss')
    >>> embedding = record[taps[0]]

    Args:
        model (nn.Module): The network.
        taps (Sequence[Tap]): What to read.
        role (str): ``student`` or ``teacher``, for messages.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], role: str = 'model') -> None:
        self._model = model
        self._taps = list(dict.fromkeys(taps))
        self._role = role
        self._handles: List[Any] = []
        self._seen: Dict[Tuple[Tap, str], List[Any]] = {}

    def __enter__(self) -> 'Recorder':
        self._seen = {}
        for tap in self._taps:
            for source in tap.sources:
                self._handles.append(self._hook(self._model.get_submodule(source), tap, source))
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, module: nn.Module, tap: Tap, source: str) -> Any:
        if tap.inputs:
            return module.register_forward_pre_hook(lambda module, args: self._keep(tap, source, args))
        return module.register_forward_hook(lambda module, args, output: self._keep(tap, source, output))

    def _keep(self, tap: Tap, source: str, value: Any) -> None:
        runs = self._seen.setdefault((tap, source), [])
        if runs and tap.record_idx is None:
            raise RuntimeError(
                f'{self._role}: the module {source!r} ran more than once in a forward, so which '
                f'representation {tap} means cannot be told. Read another module, or choose a run with '
                f"dict(type='{_KINDS[not tap.inputs]}', source='{source}', record_idx=...), from 0."
            )
        runs.append(value)

    def __getitem__(self, tap: Tap) -> Tensor:
        values = [self._read(tap, source) for source in tap.sources]
        if tap.form is not None:
            values[0] = tap.form.canonical(values[0])
        if tap.scales:
            return self._scale_logits(tap, *values)
        if len(values) == 1:
            return values[0]
        if len({value.shape for value in values}) == 1:
            return torch.stack(values).mean(dim=0)
        return torch.cat(values, dim=1)

    def _scale_logits(self, tap: Tap, features: Tensor, logits: Tensor) -> Tensor:
        assert tap.form is not None
        regions = [F.adaptive_avg_pool2d(tap.form.to_map(features), scale) for scale in tap.scales[1:]]
        if not regions:
            return logits[:, None]
        x = torch.cat([region.flatten(2) for region in regions], dim=2).transpose(1, 2)  # (B, cells, C)
        batch, cells, _ = x.shape
        x = x.flatten(0, 1)
        for path, dims in tap.tail:
            x = self._model.get_submodule(path)(x[..., None, None] if dims == 4 else x).flatten(1)
        x = self._model.get_submodule(tap.sources[1])(x)
        return torch.cat([logits[:, None], x.view(batch, cells, -1)], dim=1)

    def _read(self, tap: Tap, source: str) -> Tensor:
        if (tap, source) not in self._seen:
            raise RuntimeError(
                f'{self._role}: the module {source!r} did not run in this forward, so {tap} was not '
                'read. Read a module that runs in training and in evaluation.'
            )
        runs = self._seen[tap, source]
        if not -len(runs) <= (tap.record_idx or 0) < len(runs):
            raise RuntimeError(
                f'{self._role}: record_idx={tap.record_idx} of {tap}, whose module ran {len(runs)} times in this '
                'forward. Choose from 0.'
            )
        value = _unwrap(runs[tap.record_idx or 0])
        if isinstance(value, (tuple, list)):
            if tap.data_idx is None or not -len(value) <= tap.data_idx < len(value):
                raise RuntimeError(
                    f'{self._role}: {tap} is {len(value)} values; choose one with '
                    f"dict(type='{_KINDS[not tap.inputs]}', source='{source}', data_idx=...), from 0."
                )
            value = _unwrap(value[tap.data_idx])
        if not isinstance(value, Tensor):
            raise RuntimeError(f'{self._role}: {tap} is a {type(value).__name__}, not a tensor. Read another module.')
        if tap.name in ('embedding', 'logits') and value.shape[2:] == (1, 1):
            return value.flatten(1)  # around a classifier that is a 1 x 1 convolution
        return value


def _unwrap(value: Any) -> Any:
    """What a tuple of one holds: MMPretrain passes a single stage as such."""
    while isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    return value
