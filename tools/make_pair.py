# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Write the config of a distillation between any two models.

``python tools/make_pair.py --teacher NAME --student NAME --dataset cifar100|in1k|PATH [-o FILE]``

NAME is a classifier of MMPretrain's model index (``mmpretrain.list_models(task='Image Classification')``), or
``timm/NAME``. PATH is a folder with ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``. The config is in the style of those
in ``configs/rsd``, with the published recipe for the student's family, and ``tools/train.py`` runs it as it is. The
pair is built with random weights and given two images before the tool is done, so that what does not fit shows here.
"""

import argparse
import copy
import difflib
import logging
import os
import os.path as osp
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample
from torch import nn

from common.images import image_side
from common.launch import build_with_random_weights
from rsd_mm.utils.checkpoint import CheckpointError, load_strictly
from rsd_mm.utils.config import build_model, resolve_model
from rsd_mm.utils.model_index import find_classifier

BASES = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs', '_base_')
PLAIN_LOSS = dict(type='CrossEntropyLoss', loss_weight=1.0)
LABEL_SMOOTHING = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
MIXING = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
#: Dataset, schedule and runtime of configs/_base_, for every dataset and family of students.
RECIPES = {
    ('in1k', 'cnn'): ('imagenet_bs64', 'in1k_cnn_100e', 'default_runtime'),
    ('in1k', 'token'): ('imagenet_bs128_randaug', 'in1k_token_300e', 'ema_runtime'),
    ('cifar100', 'cnn'): ('cifar100_224_bs128', 'cifar100_cnn_300e', 'default_runtime'),
    ('cifar100', 'token'): ('cifar100_224_bs128_randaug', 'cifar100_token_300e', 'default_runtime'),
    ('folder', 'cnn'): ('folder_bs64', 'cifar100_cnn_300e', 'default_runtime'),
    ('folder', 'token'): ('folder_bs128_randaug', 'cifar100_token_300e', 'default_runtime'),
}


class Network(NamedTuple):
    """A model that a NAME stands for.

    Attributes:
        name (str): The name, as it was given.
        reference (dict): How a config refers to it, without weights.
        model (dict): Its own config.
        side (int): The side in pixels of the images that it was published for.
        weights (str, optional): Where its published weights are.
        normalization (dict): Mean and std that it was published for, as far as known.
        optimizer (str): What its own config trains it with, as far as known.
    """

    name: str
    reference: Dict[str, Any]
    model: Dict[str, Any]
    side: int
    weights: Optional[str]
    normalization: Dict[str, Any]
    optimizer: str = ''


class Data(NamedTuple):
    """What is trained on: ``in1k``, ``cifar100`` or ``folder``, its number of classes, its name, and its folder."""

    kind: str
    classes: int
    name: str
    root: Optional[str] = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the config of a distillation between any two models')
    parser.add_argument('--teacher', required=True, help="a name of MMPretrain's model index, or timm/NAME")
    parser.add_argument('--student', required=True, help="a name of MMPretrain's model index, or timm/NAME")
    parser.add_argument('--dataset', required=True, help='in1k, cifar100, or a folder with train/CLASS and val/CLASS')
    parser.add_argument('-o', '--out', help='default: TEACHER_to_STUDENT_DATASET.py in the current folder')
    parser.add_argument(
        '--teacher-checkpoint',
        help="the teacher's weights, for its own classes or the dataset's (default: the published ones)",
    )
    parser.add_argument(
        '--finetune-teacher',
        action='store_true',
        help='also write TEACHER_DATASET.py, which trains the teacher on the dataset first',
    )
    parser.add_argument(
        '--recipe',
        choices=['cnn', 'token'],
        help='cnn: SGD and little augmentation; token: AdamW, RandAugment, Mixup and CutMix (default: token for '
        'students that MMPretrain trains with AdamW, or that have LayerNorm or hardly a convolution)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite files that exist')
    args = parser.parse_args()
    if args.teacher_checkpoint and args.finetune_teacher:
        parser.error('--finetune-teacher trains the weights that --teacher-checkpoint would give: choose one of them.')
    return args


def find_network(name: str, role: str) -> Network:
    """The model that a name stands for."""
    if not name.startswith('timm/'):
        entry = find_classifier(name, role)
        cfg = entry.config
        if 'head' not in cfg.model:
            raise ValueError(
                f'{role}: {name} is a {cfg.model.type}, which has no classifier whose input is an embedding.'
            )
        normalization = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
        optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {}).get('type', '')
        reference = dict(cfg_path=f'mmpretrain::{entry.name.lower()}')
        return Network(name, reference, cfg.model, image_side(cfg), entry.weights, normalization, str(optimizer))
    try:
        import timm
    except ImportError:
        raise ValueError(f'{role}: {name} is a model of timm, which is not installed: pip install timm') from None
    kind = name[len('timm/') :]
    if not timm.is_model(kind):
        close = difflib.get_close_matches(kind, timm.list_models(), n=3)
        hint = f' Did you mean {" or ".join(repr("timm/" + model) for model in close)}?' if close else ''
        raise ValueError(f'{role}: timm has no model {kind!r}.{hint} All of them: timm.list_models().')
    published = timm.get_pretrained_cfg(kind)
    model = dict(type='TimmClassifier', model_name=kind, num_classes=published.num_classes if published else 1000)
    if published is None:
        return Network(name, model, model, 224, None, {})
    mean, std = ([round(255 * value, 3) for value in values] for values in (published.mean, published.std))
    weights = published.url or published.hf_hub_id
    return Network(name, model, model, published.input_size[-1], weights, dict(mean=mean, std=std))


def find_data(dataset: str) -> Data:
    """The dataset that ``--dataset`` means; a folder is looked through."""
    if dataset in ('in1k', 'cifar100'):
        return Data(dataset, dict(in1k=1000, cifar100=100)[dataset], dataset)
    root = osp.abspath(osp.expanduser(dataset))
    if not osp.isdir(root):
        raise ValueError(f'--dataset is in1k, cifar100 or a folder; {dataset!r} is none of them (looked in {root!r}).')
    layout = f'--dataset: {dataset!r} should hold train/CLASS/*.jpg and val/CLASS/*.jpg, with the same classes in both'
    splits = {split: osp.join(root, split) for split in ('train', 'val')}
    for split, folder in splits.items():
        if not osp.isdir(folder):
            raise ValueError(f'{layout}; it has no folder {split!r}.')
    train, val = ({entry.name for entry in os.scandir(folder) if entry.is_dir()} for folder in splits.values())
    if train != val:
        raise ValueError(f'{layout}; in one of them only: {", ".join(sorted(train ^ val)[:10])}.')
    if len(train) < 2:
        raise ValueError(f'{layout}; it has {len(train)} of them, and a classifier needs 2.')
    return Data('folder', len(train), osp.basename(root), root)


def family_of(student: Network) -> str:
    """``token`` or ``cnn``, see ``--recipe``."""
    if 'AdamW' in student.optimizer:
        return 'token'
    modules = list(build_model(resolve_model(student.reference, 'student'), 'student').modules())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    return 'token' if convolutions < 3 or any(isinstance(module, nn.LayerNorm) for module in modules) else 'cnn'


def class_changes(model: Dict[str, Any], classes: int) -> Dict[str, Any]:
    """What sets the number of classes, wherever a model's config states it."""
    changes: Dict[str, Any] = {}
    for key, value in model.items():
        inner = class_changes(value, classes) if isinstance(value, dict) and key != 'data_preprocessor' else {}
        if inner:
            changes[key] = inner
        elif key == 'num_classes' and value != classes:
            changes[key] = classes
    return changes


def plain(value: Any) -> Any:
    """Without the ``_scope_`` that mmengine adds to what comes from another package."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if key != '_scope_'}
    return type(value)(map(plain, value)) if isinstance(value, (list, tuple)) else value


def replacing(old: Any, new: Dict[str, Any]) -> Dict[str, Any]:
    """A dict that takes the place of another, rather than being merged into it."""
    return {'_delete_': True, **new} if isinstance(old, dict) else new


def student_changes(model: Dict[str, Any], data: Data, family: str) -> Dict[str, Any]:
    """What makes a published model a recipe's student: classes, loss, batch augmentation, and a start from scratch."""
    changes = class_changes(model, data.classes)
    head, backbone = changes.pop('head', {}), changes.pop('backbone', {})
    timm = model['type'] == 'TimmClassifier'
    old = (model if timm else model['head']).get('loss')
    loss = LABEL_SMOOTHING if family == 'token' or data.kind != 'in1k' else PLAIN_LOSS
    if plain(old or PLAIN_LOSS) != loss:
        (changes if timm else head)['loss'] = replacing(old, loss)
    augments = plain((model.get('train_cfg') or {}).get('augments') or [])
    wanted = MIXING if family == 'token' else []
    if augments != wanted and [augments] != wanted:
        changes['train_cfg'] = replacing(model.get('train_cfg'), dict(augments=wanted) if wanted else {})
    if not timm:
        if 'distillation' in model['head'] or model['head']['type'] in ('EfficientFormerClsHead', 'LeViTClsHead'):
            head['distillation'] = False  # MMPretrain does not train a second head
        if family == 'token' and model['backbone'].get('drop_path_rate'):
            backbone['drop_path_rate'] = 0.0
        if model['backbone'].get('frozen_stages', -1) > 0:  # for linear probing
            backbone['frozen_stages'] = -1
        init_cfg = model['backbone'].get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            backbone['init_cfg'] = None
    changes.update(**({'backbone': backbone} if backbone else {}), **({'head': head} if head else {}))
    return changes


def teacher_config(teacher: Network, data: Data, side: int, checkpoint: Optional[str]) -> Dict[str, Any]:
    """The teacher as it is published, or with a file of weights."""
    cfg = dict(teacher.reference)
    if 'cfg_path' not in cfg and teacher.normalization:
        # One that is written out says how images look to it; their order of channels is the run's.
        cfg['data_preprocessor'] = dict(teacher.normalization, to_rgb=data.kind != 'cifar100')
    if checkpoint:
        cfg.update(classes_of_file(teacher, data, checkpoint), checkpoint=checkpoint)
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


def classes_of_file(teacher: Network, data: Data, path: str) -> Dict[str, Any]:
    """The changes with which a file of weights fits: none, or those to the classes of the dataset."""
    errors = []
    for changes in ({}, class_changes(teacher.model, data.classes)):
        try:
            load_strictly(
                build_model(resolve_model({**teacher.reference, **changes}, 'teacher'), 'teacher'), path, 'teacher'
            )
            return changes
        except CheckpointError as error:
            errors.append(error)
    raise errors[-1]


def source(value: Any, indent: int = 0, before: int = 0) -> str:
    """The Python source of a config's value: on one line where it fits, behind ``before`` other characters."""
    if isinstance(value, dict):
        parts = [(f'{key}=', inner) for key, inner in value.items()]
        begin, end = 'dict(', ')'
    elif isinstance(value, (list, tuple)):
        parts = [('', inner) for inner in value]
        begin, end = ('[', ']') if isinstance(value, list) else ('(', ')')
    else:
        return repr(value)
    flat = begin + ', '.join(key + source(inner) for key, inner in parts) + end
    if indent + before + len(flat) < 120:
        return flat
    pad = ' ' * (indent + 4)
    lines = [f'{pad}{key}{source(inner, indent + 4, len(key) + 1)},\n' for key, inner in parts]
    return f'{begin}\n{"".join(lines)}{" " * indent}{end}'


def write(path: str, comment: str, bases: List[str], settings: Dict[str, Any]) -> None:
    folder = osp.dirname(osp.abspath(path))
    files = [osp.relpath(osp.join(BASES, f'{base}.py'), folder).replace(os.sep, '/') for base in bases]
    text = f'_base_ = {source(files, before=9)}'
    for name, value in settings.items():
        twin = name.replace('test_', 'val_')
        same = twin != name and settings.get(twin) is value
        text += f'\n\n{name} = {twin if same else source(value, before=len(name) + 3)}'
    with open(path, 'w', encoding='utf-8') as file:
        file.write(f'# {comment}\n# Written by tools/make_pair.py, to be changed at will.\n{text}\n')


def data_settings(data: Data, base: str, side: int, normalization: Optional[dict] = None) -> Dict[str, Any]:
    """What a config adds to its dataset's base: folder, classes and mean, and another size of the images than 224."""
    settings: Dict[str, Any] = {}
    preprocessor: Dict[str, Any] = dict(num_classes=data.classes) if data.kind == 'folder' else {}
    file = Config.fromfile(osp.join(BASES, 'datasets', f'{base}.py'))
    for key in ('mean', 'std'):
        given = (normalization or {}).get(key)
        if given is not None and list(given) != list(file.data_preprocessor[key]):
            preprocessor[key] = list(given)
    if preprocessor:
        settings['data_preprocessor'] = preprocessor
    for field, pipeline in (('train_dataloader', file.train_pipeline), ('val_dataloader', file.test_pipeline)):
        dataset: Dict[str, Any] = dict(data_root=data.root) if data.root else {}
        if side != 224:
            dataset['pipeline'] = [_resized(plain(dict(step)), side) for step in pipeline]
        if dataset:
            settings[field] = dict(dataset=dataset)
    if 'val_dataloader' in settings:
        settings['test_dataloader'] = settings['val_dataloader']
    if data.classes < 6:
        settings['val_evaluator'] = settings['test_evaluator'] = dict(topk=1)  # there are no five best of them
    return settings


def _resized(step: Dict[str, Any], side: int) -> Dict[str, Any]:
    for key in ('scale', 'crop_size'):
        if isinstance(step.get(key), int):
            step[key] = round(step[key] / 224 * side)
        elif isinstance(step.get(key), tuple):
            step[key] = (side, side)
    return step


def write_finetuning(path: str, teacher: Network, data: Data) -> None:
    """The config that trains a teacher on the dataset, from its published weights."""
    if not teacher.weights:
        raise ValueError(f'teacher: no weights are published for {teacher.name} to start from. Give another name.')
    changes = class_changes(teacher.model, data.classes)
    if 'cfg_path' in teacher.reference:
        model = plain(resolve_model({**teacher.reference, **changes}, 'teacher').model.to_dict())
        model.pop('data_preprocessor', None)
        model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=teacher.weights, prefix='backbone')
    else:
        model = {**teacher.reference, 'pretrained': True, **changes}
    dataset = RECIPES[data.kind, 'cnn'][0]
    settings = dict(model=model, **data_settings(data, dataset, teacher.side, teacher.normalization))
    comment = f'Fine-tunes {teacher.name} on {data.name}, as a teacher.'
    write(path, comment, [f'datasets/{dataset}', 'schedules/finetune_30e', 'default_runtime'], settings)


def check(path: str, side: int) -> str:
    """Build the pair and give it two images; returns what it costs."""
    cfg = Config.fromfile(path)
    model = build_with_random_weights(copy.deepcopy(cfg)).train()
    images = list(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    model(**model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True), mode='loss')
    student, extra = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.student, model.terms))
    return f'student {student:.2f} M parameters, projector {extra:.2f} M'


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)  # building tells of the random weights
    written: List[str] = []
    try:
        teacher, student = find_network(args.teacher, 'teacher'), find_network(args.student, 'student')
        data = find_data(args.dataset)
        short = [name.rpartition('/')[2].lower() for name in (args.teacher, args.student)]
        out = args.out or f'{"_to_".join(short)}_{data.name}.py'
        tuned = osp.join(osp.dirname(out), f'{short[0]}_{data.name}.py')
        for path in [out, tuned][: 2 if args.finetune_teacher else 1]:
            if osp.exists(path) and not args.force:
                raise ValueError(f'{path!r} exists. Choose another name with -o, or overwrite it with --force.')
            written.append(path)
        os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
        family = args.recipe or family_of(student)
        if args.finetune_teacher:
            write_finetuning(tuned, teacher, data)
            weights = f'work_dirs/{osp.splitext(osp.basename(tuned))[0]}/epoch_30.pth'
            teacher_cfg = dict(cfg_path='{{ fileDirname }}/' + osp.basename(tuned), checkpoint=weights)
            if teacher.side != student.side:
                teacher_cfg['input_size'] = teacher.side
        else:
            teacher_cfg = teacher_config(teacher, data, student.side, args.teacher_checkpoint)
        dataset, schedule, runtime = RECIPES[data.kind, family]
        model = dict(
            student={**student.reference, **student_changes(student.model, data, family)},
            teacher=teacher_cfg,
        )
        bases = ['methods/rsd', f'datasets/{dataset}', f'schedules/{schedule}', runtime]
        settings = dict(model=model, **data_settings(data, dataset, student.side))
        write(out, f'{args.teacher} teaches {args.student} on {data.name}.', bases, settings)
        costs = check(out, student.side)
    except (ValueError, RuntimeError) as error:
        for path in written:
            if osp.exists(path):
                os.remove(path)
        raise SystemExit(f'make_pair: {error}') from None
    print(f'{out}: {args.teacher} to {args.student} on {data.classes} classes, {family} recipe; {costs}')
    if args.finetune_teacher:
        print(f'First the teacher:  python tools/train.py {tuned}')
    elif teacher_cfg.get('pretrained') and data.kind != 'in1k':
        print(
            "Its teacher tells its own dataset's classes apart. Embeddings may be compared all the same, but one that "
            'knows the new classes teaches better: see --finetune-teacher and --teacher-checkpoint.'
        )
    print(f'Train:  python tools/train.py {out}')


if __name__ == '__main__':
    main()
