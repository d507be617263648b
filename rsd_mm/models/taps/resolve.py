# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""From the tap of a config to a place in a network."""

import difflib
from typing import Any, Union

from torch import nn

from .classifier import classifier_layers, width_of
from .regions import scale_logits_tap
from .stages import STAGES, source_form, stage_sources
from .tap import ClassifierTap, StageTap, Tap

#: mmrazor's words for the output and the input of a module.
MODULE_KINDS = ('ModuleOutputs', 'ModuleInputs')


def resolve_tap(model: nn.Module, spec: Union[str, dict], role: str) -> Tap:
    """Locate the tap of a config. It is written as

    - ``'embedding'``: the input of the layer that computes the logits, which the literature calls penultimate or
      pre-logits; ``'logits'``: its output. See :class:`~rsd_mm.models.taps.ClassifierTap`;
    - ``'stage1'`` to ``'stage4'``: the end of a stage, see :func:`~rsd_mm.models.taps.stages.stage_sources`; or
      ``dict(type='Stage', source=PATH)``, the output of a module of your choice;
    - ``dict(type='ScaleLogits', scales=(1, 2, 4))``: logits of image regions, see
      :class:`~rsd_mm.models.taps.ScaleLogitsTap`;
    - any other string: the path of a module, for its output;
    - ``dict(type='ModuleInputs' | 'ModuleOutputs', source=PATH, data_idx=None, record_idx=None)``, as in mmrazor: the
      input or output of a module, of which ``data_idx`` selects one if there are several, and ``record_idx`` one run of
      a module that runs several times in a forward.

    Args:
        model (nn.Module): The network.
        spec (str | dict): The tap.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If there is no such place, or if the classifier, which ``embedding`` and ``logits`` need, is
            ambiguous.
    """
    if spec in ('embedding', 'logits'):
        return _classifier_tap(model, str(spec), role)
    if spec in STAGES:
        source, form = stage_sources(model, role)[STAGES.index(str(spec))]
        return StageTap(str(spec), (source,), channels=form.channels, data_idx=0, form=form)
    if isinstance(spec, dict):
        kind = spec.get('type')
        if kind == 'ScaleLogits':
            return scale_logits_tap(model, spec, role)
        return _stage_tap(model, spec, role) if kind == 'Stage' else _module_tap(model, spec, role)
    if not isinstance(spec, str):
        raise ValueError(f'{role}: a tap is a string or a dict, received {spec!r}.')
    return _module_tap(model, dict(type='ModuleOutputs', source=spec), role)


def _classifier_tap(model: nn.Module, name: str, role: str) -> Tap:
    inputs, sources = name == 'embedding', classifier_layers(model, role)
    widths: Any = [width_of(model.get_submodule(source), inputs) for source in sources]
    channels = None if None in widths else widths[0] if len(set(widths)) == 1 else sum(widths)
    return ClassifierTap(name, sources, inputs, channels, per_class=not inputs)


def _stage_tap(model: nn.Module, spec: dict, role: str) -> Tap:
    if set(spec) != {'type', 'source'}:
        raise ValueError(f"{role}: a stage is dict(type='Stage', source=PATH), received {dict(spec)!r}.")
    source = spec['source']
    _check_path(model, source, role)
    form = source_form(model, source, role)
    return StageTap(source, (source,), channels=form.channels, data_idx=0, form=form)


def _module_tap(model: nn.Module, spec: dict, role: str) -> Tap:
    kind, source = spec.get('type'), spec.get('source')
    if kind not in MODULE_KINDS or not isinstance(source, str):
        raise ValueError(
            f"{role}: a tap given as a dict is dict(type='ModuleInputs' | 'ModuleOutputs', "
            f'source=PATH, data_idx=None, record_idx=None), received {dict(spec)!r}.'
        )
    options = ('type', 'source', 'data_idx', 'record_idx')
    unknown = set(spec) - set(options)
    if unknown:
        raise ValueError(f'{role}: a tap has no option {sorted(unknown)[0]!r}. It takes: {", ".join(options)}.')
    _check_path(model, source, role)
    inputs = kind == 'ModuleInputs'
    channels = width_of(model.get_submodule(source), inputs)
    return Tap(source, (source,), inputs, channels, spec.get('data_idx'), spec.get('record_idx'))


def _check_path(model: nn.Module, path: str, role: str) -> None:
    modules = dict(model.named_modules())
    if not path or path not in modules:
        close = difflib.get_close_matches(path, modules, n=3, cutoff=0.4)
        raise ValueError(
            f"{role}: {type(model).__name__} has no module {path!r} to read. Allowed are 'embedding', 'logits', "
            "'stage1' to 'stage4' and the paths of its modules"
            f'{", for example " + ", ".join(map(repr, close)) if close else ""}.'
        )
