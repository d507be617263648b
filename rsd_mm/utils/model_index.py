# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""MMPretrain's model index: classifiers by name, their weights, and their stated accuracy."""

import difflib
import os
import re
from typing import Any, Dict, NamedTuple, Optional
from urllib.parse import urlparse

#: Files of published weights end with a part of their hash. Others need no index, which takes seconds to read.
PUBLISHED_FILE = re.compile(r'[-_][0-9a-f]{8}\.pth$')


class Published(NamedTuple):
    """What the index states of a file of weights.

    Attributes:
        name (str): The model's name.
        dataset (str): The dataset of the evaluation, in the index's words, for example ``ImageNet-1k``.
        top1 (float): Top-1 accuracy in percent.
    """

    name: str
    dataset: str
    top1: float


def classifiers() -> Dict[str, Any]:
    """Return the index's ``modelindex`` models of classifiers by name; their ``config`` is a path."""
    from mmpretrain.apis.model import ModelHub, list_models

    # Private to MMPretrain, whose public ModelHub.get reads the config file of each model.
    return {name: ModelHub._models_dict[name] for name in list_models(task='Image Classification')}


def index_entry(name: str, role: str) -> Any:
    """Return a classifier of the index, with its config loaded.

    Raises:
        ValueError: If there is none of that name; suggests the closest names.
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
    """Return what the index states of a checkpoint, a URL of the index or a file of the same name.

    Returns:
        Published, optional: None for an unknown file, or one without a top-1 accuracy.
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
