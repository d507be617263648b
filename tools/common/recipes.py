# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The settings with which any two models become a pair on any dataset."""

import os.path as osp
from typing import Any, Dict, Optional

from mmengine.config import Config

from common.arguments import CONFIGS
from common.networks import Data, Network
from common.sources import replacing, strip_scope
from rsd_mm.utils.checkpoint import CheckpointError, load_strictly
from rsd_mm.utils.config import build_model, resolve_model

PLAIN_LOSS = dict(type='CrossEntropyLoss', loss_weight=1.0)
LABEL_SMOOTHING = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
MIXING = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
#: Dataset, schedule and runtime in configs/_base_, by kind of dataset and family of students.
RECIPES = {
    ('in1k', 'cnn'): ('imagenet_bs64', 'in1k_cnn_100e', 'default_runtime'),
    ('in1k', 'token'): ('imagenet_bs128_randaug', 'in1k_token_300e', 'ema_runtime'),
    ('cifar100', 'cnn'): ('cifar100_224_bs128', 'cifar100_cnn_300e', 'default_runtime'),
    ('cifar100', 'token'): ('cifar100_224_bs128_randaug', 'cifar100_token_300e', 'default_runtime'),
    ('folder', 'cnn'): ('folder_bs64', 'cifar100_cnn_300e', 'default_runtime'),
    ('folder', 'token'): ('folder_bs128_randaug', 'cifar100_token_300e', 'default_runtime'),
}


def class_changes(model: Dict[str, Any], classes: int) -> Dict[str, Any]:
    """Return the changes that set the number of classes everywhere in a model's config."""
    changes: Dict[str, Any] = {}
    for key, value in model.items():
        inner = class_changes(value, classes) if isinstance(value, dict) and key != 'data_preprocessor' else {}
        if inner:
            changes[key] = inner
        elif key == 'num_classes' and value != classes:
            changes[key] = classes
    return changes


def student_changes(model: Dict[str, Any], data: Data, family: str) -> Dict[str, Any]:
    """Return the changes that give a published model the recipe: classes, loss, batch augmentation, no weights."""
    changes = class_changes(model, data.classes)
    head, backbone = changes.pop('head', {}), changes.pop('backbone', {})
    timm = model['type'] == 'TimmClassifier'
    old = (model if timm else model['head']).get('loss')
    loss = LABEL_SMOOTHING if family == 'token' or data.kind != 'in1k' else PLAIN_LOSS
    if strip_scope(old or PLAIN_LOSS) != loss:
        (changes if timm else head)['loss'] = replacing(old, loss)
    augments = strip_scope((model.get('train_cfg') or {}).get('augments') or [])
    wanted = MIXING if family == 'token' else []
    if augments != wanted and [augments] != wanted:
        changes['train_cfg'] = replacing(model.get('train_cfg'), dict(augments=wanted) if wanted else {})
    if not timm:
        if 'distillation' in model['head'] or model['head']['type'] in ('EfficientFormerClsHead', 'LeViTClsHead'):
            head['distillation'] = False  # MMPretrain does not train a second head.
        if family == 'token' and model['backbone'].get('drop_path_rate'):
            backbone['drop_path_rate'] = 0.0
        if model['backbone'].get('frozen_stages', -1) > 0:  # Of linear probing.
            backbone['frozen_stages'] = -1
        init_cfg = model['backbone'].get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            backbone['init_cfg'] = None
    changes.update(**({'backbone': backbone} if backbone else {}), **({'head': head} if head else {}))
    return changes


def teacher_settings(teacher: Network, data: Data, side: int, checkpoint: Optional[str]) -> Dict[str, Any]:
    """Return the ``teacher`` dict, with the published weights or those of a file.

    Raises:
        ValueError: If there are no published weights, or if the file does not fit.
    """
    cfg = dict(teacher.reference)
    if 'cfg_path' not in cfg and teacher.normalization:
        # An inline model states its normalization; the order of channels is that of the run.
        cfg['data_preprocessor'] = dict(teacher.normalization, to_rgb=data.kind != 'cifar100')
    if checkpoint:
        cfg.update(_changes_for_weights(teacher, data, checkpoint), checkpoint=checkpoint)
    elif teacher.weights:
        cfg['pretrained'] = True
    else:
        raise ValueError(
            f'teacher: no weights are published for {teacher.name}. Give a file with --teacher-checkpoint, '
            'or another name.'
        )
    if teacher.side != side:
        cfg['input_size'] = teacher.side
    return cfg


def _changes_for_weights(teacher: Network, data: Data, path: str) -> Dict[str, Any]:
    """Return the changes with which a file of weights fits: none, or the dataset's classes."""
    error = None
    for changes in ({}, class_changes(teacher.model, data.classes)):
        reference = resolve_model({**teacher.reference, **changes}, 'teacher')
        try:
            load_strictly(build_model(reference, 'teacher'), path, 'teacher')
            return changes
        except CheckpointError as failed:
            error = failed
    assert error is not None
    raise error


def finetuning_settings(teacher: Network, data: Data) -> Dict[str, Any]:
    """Return the settings that train a teacher on a dataset, from its published weights.

    Raises:
        ValueError: If there are none.
    """
    if not teacher.weights:
        raise ValueError(f'teacher: no weights are published for {teacher.name} to start from. Give another name.')
    changes = class_changes(teacher.model, data.classes)
    if 'cfg_path' in teacher.reference:
        model = strip_scope(Config(resolve_model({**teacher.reference, **changes}, 'teacher').model).to_dict())
        model.pop('data_preprocessor', None)
        model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=teacher.weights, prefix='backbone')
    else:
        model = {**teacher.reference, 'pretrained': True, **changes}
    dataset = RECIPES[data.kind, 'cnn'][0]
    return dict(model=model, **data_settings(data, dataset, teacher.side, teacher.normalization))


def data_settings(data: Data, base: str, side: int, normalization: Optional[dict] = None) -> Dict[str, Any]:
    """Return what a config changes in its dataset's base: folder, classes, mean and std, image size if not 224."""
    settings: Dict[str, Any] = {}
    preprocessor: Dict[str, Any] = dict(num_classes=data.classes) if data.kind == 'folder' else {}
    file = Config.fromfile(osp.join(CONFIGS, '_base_', 'datasets', f'{base}.py'))
    for key in ('mean', 'std'):
        given = (normalization or {}).get(key)
        if given is not None and list(given) != list(file.data_preprocessor[key]):
            preprocessor[key] = list(given)
    if preprocessor:
        settings['data_preprocessor'] = preprocessor
    for field, pipeline in (('train_dataloader', file.train_pipeline), ('val_dataloader', file.test_pipeline)):
        dataset: Dict[str, Any] = dict(data_root=data.root) if data.root else {}
        if side != 224:
            dataset['pipeline'] = [_resize(strip_scope(dict(step)), side) for step in pipeline]
        if dataset:
            settings[field] = dict(dataset=dataset)
    if 'val_dataloader' in settings:
        settings['test_dataloader'] = settings['val_dataloader']
    if data.classes < 6:
        settings['val_evaluator'] = settings['test_evaluator'] = dict(topk=1)  # The bases also report the top 5.
    return settings


def _resize(step: Dict[str, Any], side: int) -> Dict[str, Any]:
    for key in ('scale', 'crop_size'):
        if isinstance(step.get(key), int):
            step[key] = round(step[key] / 224 * side)
        elif isinstance(step.get(key), tuple):
            step[key] = (side, side)
    return step
