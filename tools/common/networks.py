# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Models and datasets by name, to make a pair of."""

import difflib
import os
import os.path as osp
from typing import Any, Dict, NamedTuple, Optional

from torch import nn

from common.configs import image_side
from rsd_mm.models.reference import build_model, resolve_model
from rsd_mm.utils.model_index import index_entry


class Network(NamedTuple):
    """A named model, and how it was published."""

    name: str
    reference: Dict[str, Any]  # The model in a config, without weights.
    model: Dict[str, Any]  # Its own config.
    side: int  # Of its images, in pixels.
    weights: Optional[str]
    normalization: Dict[str, Any]  # Mean and std, as far as known.
    optimizer: str = ''  # As far as known.


class Data(NamedTuple):
    """A dataset."""

    kind: str  # 'in1k', 'cifar100' or 'folder'.
    classes: int
    name: str
    root: Optional[str] = None


def resolve_network(name: str, role: str) -> Network:
    """Return the model of a name.

    Raises:
        ValueError: If there is no such classifier; close names are given.
    """
    if name.startswith('timm/'):
        return _timm_network(name, role)
    entry = index_entry(name, role)
    cfg = entry.config
    if 'head' not in cfg.model:
        raise ValueError(f'{role}: {name} is a {cfg.model.type}, which has no classifier whose input is an embedding.')
    normalization = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
    optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {}).get('type', '')
    reference = dict(cfg_path=f'mmpretrain::{entry.name.lower()}')
    return Network(name, reference, cfg.model, image_side(cfg), entry.weights, normalization, str(optimizer))


def _timm_network(name: str, role: str) -> Network:
    try:
        import timm
    except ImportError:
        raise ValueError(f'{role}: {name} is a timm model, and timm is not installed: pip install timm') from None
    kind = name[len('timm/') :]
    if not timm.is_model(kind):
        close = difflib.get_close_matches(kind, timm.list_models(), n=3)
        hint = f' Did you mean {" or ".join(repr("timm/" + model) for model in close)}?' if close else ''
        raise ValueError(f'{role}: timm has no model {kind!r}.{hint} For all of them: timm.list_models().')
    published = timm.get_pretrained_cfg(kind)
    model = dict(type='TimmClassifier', model_name=kind, num_classes=published.num_classes if published else 1000)
    if published is None:
        return Network(name, model, model, 224, None, {})
    mean, std = ([round(255 * value, 3) for value in values] for values in (published.mean, published.std))
    weights: Any = published.url or published.hf_hub_id
    return Network(name, model, model, published.input_size[-1], weights, dict(mean=mean, std=std))


def resolve_dataset(name: str) -> Data:
    """Return the dataset of ``--dataset``, whose classes are counted if it is a folder.

    Raises:
        ValueError: If it is neither known nor a folder of the expected layout.
    """
    if name in ('in1k', 'cifar100'):
        return Data(name, dict(in1k=1000, cifar100=100)[name], name)
    root = osp.abspath(osp.expanduser(name))
    if not osp.isdir(root):
        raise ValueError(f'--dataset is in1k, cifar100 or a folder; {name!r} is none of them (looked in {root!r}).')
    layout = f'--dataset: {name!r} should contain train/CLASS/*.jpg and val/CLASS/*.jpg, with the same classes in both'
    splits = {split: osp.join(root, split) for split in ('train', 'val')}
    for split, folder in splits.items():
        if not osp.isdir(folder):
            raise ValueError(f'{layout}; it has no folder {split!r}.')
    train, val = ({entry.name for entry in os.scandir(folder) if entry.is_dir()} for folder in splits.values())
    if train != val:
        raise ValueError(f'{layout}; in one of them only: {", ".join(sorted(train ^ val)[:10])}.')
    if len(train) < 2:
        raise ValueError(f'{layout}; it has {len(train)} classes, and a classifier needs 2.')
    return Data('folder', len(train), osp.basename(root), root)


def family_of(student: Network) -> str:
    """Return ``token`` or ``cnn``, the student's family of recipes."""
    if 'AdamW' in student.optimizer:
        return 'token'
    modules = list(build_model(resolve_model(student.reference, 'student'), 'student').modules())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    return 'token' if convolutions < 3 or any(isinstance(module, nn.LayerNorm) for module in modules) else 'cnn'
