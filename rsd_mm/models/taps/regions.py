# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Regions of an image: the feature map behind the embedding, over the cells of a grid."""

from dataclasses import dataclass
from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .classifier import classifier_layers, width_of
from .form import Form, forms_of_width
from .probe import probe
from .tap import Tap


class PooledMap(NamedTuple):
    """The feature map whose average, or whose class token, enters the classifier.

    Attributes:
        source (str): The module that gives it.
        form (Form): Its layout.
        tail (Tuple[Tuple[str, int], ...]): Modules between the average and the classifier (a LayerNorm in ConvNeXt):
            path and number of dimensions of the input.
    """

    source: str
    form: Form
    tail: Tuple[Tuple[str, int], ...]


def locate_pooled_map(model: nn.Module, classifier: str, role: str) -> PooledMap:
    """Locate the map behind the embedding of a network, by the values in a probe.

    Args:
        model (nn.Module): The network.
        classifier (str): The path of the layer that computes its logits.
        role (str): ``student`` or ``teacher``, for messages.

    Raises:
        ValueError: If what enters the classifier is neither the average nor the first token of a feature map (VGG and
            others flatten it).
    """
    calls = probe(model, role)
    layer: Any = model.get_submodule(classifier)
    vector = None
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
    batch_norms = nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm
    if vector is not None and not any(isinstance(model.get_submodule(path), batch_norms) for path, _ in tail):
        vector = vector.flatten(1)
        for path, _, output in reversed(calls):
            for form in forms_of_width(output, layer.in_features):
                tokens = form.canonical(output)
                averages = [form.to_map(tokens).mean(dim=(2, 3))] + [tokens[:, 0]] * (form.prefix > 0)
                if any(_close(average, vector) for average in averages):
                    return PooledMap(path, form, tuple(tail))
    raise ValueError(
        f'{role}: what enters the classifier {classifier!r} of {type(model).__name__} is neither the average nor the '
        'class token of a feature map, so it has no logits of image regions.'
    )


@dataclass(frozen=True)
class ScaleLogitsTap(Tap):
    """Logits of image regions, ``(B, M, classes)``: the network's own, then those of the cells of finer grids.

    The map that is averaged for the classifier is averaged over the cells of a 2 x 2, 4 x 4, ... grid instead, and each
    cell classified like a whole image. For a network that classifies by its class token, the cells are of the patch
    tokens.

    Attributes:
        pooled (PooledMap): The map, and what follows its average.
        scales (Tuple[int, ...]): Sides of the grids, 1 first.
    """

    pooled: PooledMap = PooledMap('', Form('NCHW', 0, (1, 1)), ())
    scales: Tuple[int, ...] = (1,)

    def read(self, model: nn.Module, values: Sequence[Tensor]) -> Tensor:
        features, logits = values
        if len(self.scales) == 1:
            return logits[:, None]
        feature_map = self.pooled.form.to_map(self.pooled.form.canonical(features))
        cells = [F.adaptive_avg_pool2d(feature_map, scale).flatten(2) for scale in self.scales[1:]]
        x = torch.cat(cells, dim=2).transpose(1, 2)  # (B, cells, C)
        batch, count, _ = x.shape
        x = x.flatten(0, 1)
        for path, dims in self.pooled.tail:
            x = model.get_submodule(path)(x[..., None, None] if dims == 4 else x).flatten(1)
        x = model.get_submodule(self.sources[1])(x)
        return torch.cat([logits[:, None], x.view(batch, count, -1)], dim=1)


def scale_logits_tap(model: nn.Module, spec: dict, role: str) -> ScaleLogitsTap:
    """Resolve ``dict(type='ScaleLogits', scales=(1, 2, 4))``.

    Raises:
        ValueError: For other options, several classifiers, or a network without such a map.
    """
    scales = tuple(spec.get('scales', (1, 2, 4)))
    finer = all(isinstance(scale, int) and scale > 1 for scale in scales[1:])
    if set(spec) - {'type', 'scales'} or scales[:1] != (1,) or not finer:
        raise ValueError(
            f"{role}: the logits of regions are dict(type='ScaleLogits', scales=(1, 2, 4)), with scale 1, the whole "
            f'image, first; received {dict(spec)!r}.'
        )
    classifiers = classifier_layers(model, role)
    if len(classifiers) > 1:
        raise ValueError(f'{role}: {type(model).__name__} has {len(classifiers)} classifiers; regions need one.')
    pooled = locate_pooled_map(model, classifiers[0], role)
    width = width_of(model.get_submodule(classifiers[0]), False)
    return ScaleLogitsTap(
        'scale_logits',
        (pooled.source, classifiers[0]),
        channels=width,
        data_idx=0,
        per_class=True,
        pooled=pooled,
        scales=scales,
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.flatten(), b.flatten())


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
