# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""MMPretrain's model index: its classifiers by name, their weights, and the accuracy that is stated of them."""

import difflib
import os
import re
from typing import Any, Dict, NamedTuple, Optional
from urllib.parse import urlparse

#: How the files of published weights end: with a part of their hash. Reading the index takes seconds.
PUBLISHED_FILE = re.compile(r'[-_][0-9a-f]{8}\.pth$')


class Published(NamedTuple):
    """What the index states of a file of weights.

    Attributes:
        name (str): The model's name in the index.
        dataset (str): On which it was evaluated, in the index's words, for example ``ImageNet-1k``.
        top1 (float): Top-1 accuracy in percent.
    """

    name: str
    dataset: str
    top1: float


def classifiers() -> Dict[str, Any]:
    """The classifiers of the index by name: ``modelindex`` models, whose ``config`` is a path until it is asked for."""
    from mmpretrain.apis.model import ModelHub, list_models

    return {name: ModelHub._models_dict[name] for name in list_models(task='Image Classification')}


def find_classifier(name: str, role: str) -> Any:
    """A classifier of the index, with its config read.

    Raises:
        ValueError: If there is none of that name; the closest names are given.
    """
    from mmpretrain.apis.model import ModelHub

    known = classifiers()
    if name.lower() not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f' Did you mean {" or ".join(map(repr, close))}?' if close else ''
        raise ValueError(
            f"{role}: MMPretrain's model index has no classifier {name!r}.{hint} All of them: "
            "mmpretrain.list_models(task='Image Classification')."
        )
    return ModelHub.get(name)


def published_accuracy(checkpoint: str) -> Optional[Published]:
    """What the index states of a checkpoint: a URL of the index, or a file that has kept its name.

    Returns:
        Published, optional: None if the index does not know the file, or states no top-1 accuracy of it.
    """
    file = os.path.basename(urlparse(checkpoint).path)
    if not PUBLISHED_FILE.search(file):
        return None
    for name, model in classifiers().items():
        if model.weights and os.path.basename(model.weights) == file:
            for result in model.results:
                if 'Top 1 Accuracy' in (result.metrics or {}):
                    return Published(name, result.dataset, float(result.metrics['Top 1 Accuracy']))
    return None
