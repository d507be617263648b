# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Every shipped config: it parses, builds and trains at full size on a little data."""

import copy
import functools
import re
from pathlib import Path
from typing import NamedTuple

import modelindex.load_model_index as modelindex
import numpy as np
import pytest
import torch
from fast import fast_runs  # noqa: F401
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100

from rsd_mm import Distiller, RSDDistiller
from rsd_mm.models.reference import resolve_model
from rsd_mm.utils import read_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
METHOD_FILES = CONFIGS / '_base_' / 'methods'
README = (CONFIGS / 'rsd' / 'README.md').read_text()
BASELINES, _, PARAMETERS = (CONFIGS / 'baselines' / 'README.md').read_text().partition('## What they add')
INDEX = modelindex.load(str(CONFIGS.parent / 'model-index.yml'))
INDEX.build_models_with_collections()
MODELS_BY_CONFIG = {model.config: model for model in INDEX.models}
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('[!_]*/*.py'))
NAMES = [name for name in NAMES if not name.startswith('mmrazor/')]  # see tests/compat
PAIRS = [name for name in NAMES if name.startswith('rsd/')]
METHODS = sorted(path.stem for path in METHOD_FILES.glob('*.py') if path.stem != 'rsd')
FLAGSHIP = 'rsd/swin-t_to_mobilenetv2_in1k.py'
EXAMPLE = 'baselines/kd_swin-t_to_resnet18_cifar100.py'


def with_slow_ones_marked():
    """By default, train the quickstart, a teacher, and pairs with every teacher and student of each dataset once."""
    parts = {name: re.fullmatch('rsd/(.+)_to_(.+)_(.+).py', name).groups() for name in PAIRS}
    parts = {name: {(teacher, 'teaches', data), (student, data)} for name, (teacher, student, data) in parts.items()}
    quick, seen = {name for name in NAMES if 'digits' in name} | {'teachers/vit-s_cifar100.py'}, set()
    for new in (2, 1):
        for name in sorted(PAIRS, key=lambda name: name != FLAGSHIP):
            if len(parts[name] - seen) >= new:
                quick.add(name)
                seen |= parts[name]
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


TOKEN_PAIRS = [f'{t}_to_{s}_in1k.py' for t in ('resnet50', 'convnext-t', 'mixer-b') for s in ('deit-t', 'swin-n')]
TOKEN_PAIRS += [f'{t}_to_resmlp-s12_in1k.py' for t in ('resnet50', 'convnext-t', 'swin-t')] + [
    'swin-s_to_swin-t_in1k.py'
]
CNN_PAIRS = [f'{t}_to_{s}_in1k.py' for t in ('deit-t', 'swin-t', 'mixer-b') for s in ('resnet18', 'mobilenetv2')]
CNN_PAIRS += ['resnet34_to_resnet18_in1k.py']
CIFAR_CNN_PAIRS = [
    f'{t}_to_{s}_cifar100.py' for t in ('swin-t', 'vit-s', 'mixer-b') for s in ('resnet18', 'mobilenetv2')
]
CIFAR_TOKEN_PAIRS = [f'{t}_to_{s}_cifar100.py' for t in ('convnext-t', 'mixer-b') for s in ('deit-t', 'swin-p')]
CIFAR_TOKEN_PAIRS += [f'{t}_to_resmlp-s12_cifar100.py' for t in ('convnext-t', 'swin-t')]


@functools.cache
def parsed(name):
    return Config.fromfile(str(CONFIGS / name))


def load(name):
    """Return a config whose teacher needs no file."""
    return without_weights(copy.deepcopy(parsed(name)))


def without_weights(cfg):
    if 'teacher' in cfg.model:
        cfg.model.teacher.update(pretrained=False, checkpoint=None, allow_random_weights=True)
    elif cfg.model.get('pretrained'):
        cfg.model.pretrained = False
    return cfg


@functools.cache
def resolved(name, role):
    return resolve_model(parsed(name).model[role], role)


@pytest.fixture
def train(imagenet, tmp_path, monkeypatch):
    """Train on two images, and validate."""

    def load_data_list(self):
        images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        return [dict(img=image, gt_label=i) for i, image in enumerate(images)]

    monkeypatch.setattr(CIFAR100, 'load_data_list', load_data_list)

    def run(cfg):
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.update(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
            if loader.dataset.type == 'ImageNet':
                loader.dataset.data_root = str(imagenet)
            loader.dataset.update(indices=2, serialize_data=False)
            loader.collate_fn = dict(type='default_collate')
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), tmp_path.name
        cfg.log_level = 'ERROR'
        cfg.randomness = dict(seed=0)
        runner = Runner.from_cfg(cfg)
        runner.train()
        assert runner.iter == 1
        scalars = runner.message_hub.log_scalars
        assert all(np.isfinite(scalars['train/loss'].data[0]))
        assert 'val/accuracy/top1' in scalars
        saved = read_checkpoint(Path(cfg.work_dir) / 'epoch_1.pth')
        assert not any('teacher.' in key for key in saved['state_dict'])
        if isinstance(runner.model, RSDDistiller):
            assert 'train/rsd_invariance' in scalars
            assert 'train/rsd_decorrelation' in scalars
        if isinstance(runner.model, Distiller):
            total, *parts = (scalars[f'train/{key}'].data[0] for key in ('loss', 'loss_task', *runner.model.terms))
            np.testing.assert_allclose(total, sum(parts), rtol=1e-5)

    return run


def test_there_are_configs():
    assert {'rsd/swin-t_to_mobilenetv2_in1k.py', 'rsd/swin-t_to_resnet18_cifar100.py'} <= set(NAMES)


@pytest.mark.stack
@pytest.mark.slow  # the default run trains them, which says more
@pytest.mark.parametrize('name', NAMES)
def test_builds(name):
    cfg = load(name)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    assert type(model).__name__ == cfg.model.type


@pytest.mark.parametrize('name', with_slow_ones_marked())
def test_trains_and_validates(name, train):
    cfg = load(name)
    if name != FLAGSHIP and 'digits' not in name:
        cfg.default_hooks.checkpoint.update(save_optimizer=False, save_best=None)
    train(cfg)


def cosine(eta_min, begin):
    return dict(type='CosineAnnealingLR', eta_min=eta_min, begin=begin, end=300)


def pair(name):
    cfg = parsed(f'rsd/{name}')
    assert cfg.model.loss == dict(type='RSDLoss', loss_weight=0.1, kappa=0.01)
    assert cfg.model.projector == dict(type='RSDProjector', expansion=2)
    assert cfg.train_dataloader.drop_last
    assert cfg.custom_imports.imports == ['rsd_mm']
    assert cfg.default_scope == 'mmpretrain'
    return cfg


class Recipe(NamedTuple):
    """Values of the authors' release."""

    pairs: list
    optimizer: dict
    epochs: int
    warm_up: int
    decay: dict
    gpus: int
    images: int


SGD, ADAMW = dict(type='SGD', momentum=0.9), dict(type='AdamW', lr=5e-4, weight_decay=0.05)
STEPS = dict(type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1)
RECIPES = [
    Recipe(CNN_PAIRS, dict(SGD, lr=0.1, weight_decay=1e-4), 100, 3, STEPS, 8, 64),
    Recipe(TOKEN_PAIRS, ADAMW, 300, 20, cosine(1e-6, 20), 8, 128),
    Recipe(CIFAR_CNN_PAIRS, dict(SGD, lr=0.05, weight_decay=2e-3), 300, 3, cosine(1e-3, 3), 2, 128),
    Recipe(CIFAR_TOKEN_PAIRS, ADAMW, 300, 20, cosine(1e-5, 20), 2, 128),
]


@pytest.mark.parametrize(('name', 'recipe'), [(name, recipe) for recipe in RECIPES for name in recipe.pairs])
def test_recipe(name, recipe):
    cfg = pair(name)
    warm_up, decay = cfg.param_scheduler
    assert {key: cfg.optim_wrapper.optimizer[key] for key in recipe.optimizer} == recipe.optimizer
    assert cfg.train_cfg.max_epochs == recipe.epochs
    assert (warm_up.type, warm_up.get('begin', 0), warm_up.end) == ('LinearLR', 0, recipe.warm_up)
    assert {key: decay[key] for key in recipe.decay} == recipe.decay
    assert cfg.train_dataloader.batch_size == recipe.images
    assert cfg.auto_scale_lr.base_batch_size == recipe.gpus * recipe.images


@pytest.mark.parametrize('name', TOKEN_PAIRS + CIFAR_TOKEN_PAIRS)
def test_recipe_of_token_students(name):
    cfg = pair(name)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=5.0)
    assert cfg.param_scheduler[0].start_factor * 5e-4 == pytest.approx(5e-7)
    averages = [1 - hook.momentum for hook in cfg.get('custom_hooks', []) if hook.type == 'EMAHook']
    assert averages == (pytest.approx([0.99996]) if name in TOKEN_PAIRS else [])
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    randaug, erasing = steps['RandAugment'], steps['RandomErasing']
    assert (randaug.policies, randaug.magnitude_level, randaug.magnitude_std) == ('timm_increasing', 9, 0.5)
    assert erasing.erase_prob == 0.25
    student = resolved(f'rsd/{name}', 'student').model
    assert [(a.type, a.alpha) for a in student.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    loss = student.get('loss') or student.head.loss
    assert (loss.type, loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)
    assert student.get('backbone', {}).get('drop_path_rate', 0.0) == 0.0


@pytest.mark.parametrize('name', CNN_PAIRS + CIFAR_CNN_PAIRS)
def test_recipe_of_cnn_students(name):
    cfg = pair(name)
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline if step.type != 'LoadImageFromFile']
    assert steps == ['RandomResizedCrop', 'RandomFlip', 'PackInputs']
    head = resolved(f'rsd/{name}', 'student').model.head
    smoothing = head.loss.get('label_smooth_val')
    assert (head.num_classes, smoothing) == ((100, 0.1) if name in CIFAR_CNN_PAIRS else (1000, None))


def test_every_pair_is_there():
    """The paper's 12 pairs on CIFAR-100 and 15 on ImageNet-1k, and two within one architecture."""
    assert (len(CIFAR_CNN_PAIRS + CIFAR_TOKEN_PAIRS), len(CNN_PAIRS + TOKEN_PAIRS)) == (12, 17)
    assert sorted(CIFAR_CNN_PAIRS + CIFAR_TOKEN_PAIRS + CNN_PAIRS + TOKEN_PAIRS) == [name[4:] for name in PAIRS]


def test_model_index(capsys):
    INDEX.check(silent=False)
    assert capsys.readouterr().out == 'All good!\n'
    assert sorted(MODELS_BY_CONFIG) == [f'configs/{name}' for name in PAIRS]
    for config, model in MODELS_BY_CONFIG.items():
        cfg = parsed(config.partition('/')[2])
        stated = model.metadata.data
        assert stated['Epochs'] == cfg.train_cfg.max_epochs
        assert stated['Batch Size'] == cfg.auto_scale_lr.base_batch_size
        assert model.results is None  # nothing has been measured
        row = next(line for line in README.splitlines() if f'({Path(config).name})' in line)
        published = model.data.get('Published Results', [])
        assert row.count('[') - 1 == len(published)
        assert all(f'{result["Top 1 Accuracy"]:.2f} [' in row for result in published)


def test_flagship():
    pair('swin-t_to_mobilenetv2_in1k.py')
    student = resolved(FLAGSHIP, 'student').model
    assert student.backbone == dict(type='MobileNetV2', widen_factor=1.0)
    teacher = resolved(FLAGSHIP, 'teacher')
    assert (teacher.model.backbone.type, teacher.model.backbone.arch) == ('SwinTransformer', 'tiny')


def test_the_flagship_spells_out_what_the_others_share():
    other = parsed('rsd/deit-t_to_mobilenetv2_in1k.py').to_dict()
    assert parsed(FLAGSHIP).to_dict() == dict(other, model=dict(other['model'], teacher=parsed(FLAGSHIP).model.teacher))


@pytest.mark.parametrize('name', CNN_PAIRS + TOKEN_PAIRS)
def test_teachers_weights_are_mmpretrains(name):
    teacher = resolved(f'rsd/{name}', 'teacher')
    assert re.fullmatch('https://.*[.]pth', teacher.checkpoint)


@pytest.mark.parametrize('name', CIFAR_CNN_PAIRS + CIFAR_TOKEN_PAIRS)
def test_cifar_teachers_are_the_published_models(name):
    """timm's architectures, as in the authors' files."""
    models = {
        'swin-t': 'swin_tiny_patch4_window7_224',
        'vit-s': 'vit_small_patch16_224',
        'mixer-b': 'mixer_b16_224',
        'convnext-t': 'convnext_tiny',
    }
    teacher = resolved(f'rsd/{name}', 'teacher')
    assert teacher.model.model_name == models[name.split('_to_')[0]]
    assert teacher.model.num_classes == 100
    assert teacher.model.pretrained is False  # nothing to download: a checkpoint is given
    # Images are normalized as for the student, as in the authors' release.
    assert teacher.model.data_preprocessor == pair(name).data_preprocessor


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('teachers/')])
def test_cifar_teachers_share_a_recipe(name):
    cfg, swin = load(name), load('teachers/swin-t_cifar100.py')
    assert dict(cfg.model, model_name='') == dict(swin.model, model_name='')
    assert dict(cfg, model={}) == dict(swin, model={})


def test_the_quickstarts_student_is_trained_the_same_way_alone_and_with_rsd():
    alone, rsd = parsed('quickstart/vit_digits.py'), parsed('quickstart/resnet_to_vit_digits.py')
    assert rsd.model.student == alone.model
    assert {key: rsd[key] for key in rsd if key != 'model'} == {key: alone[key] for key in alone if key != 'model'}


@pytest.mark.parametrize('name', PAIRS)
def test_a_pair_is_readable_at_a_glance(name):
    assert len((CONFIGS / name).read_text().splitlines()) <= 25


def check_method(cfg, pair):
    """Student, teacher, data and recipe are those of RSD's config."""
    assert {key: cfg[key] for key in pair if key != 'model'} == {key: pair[key] for key in pair if key != 'model'}
    assert (cfg.model.student, cfg.model.teacher) == (pair.model.student, pair.model.teacher)
    assert {key: cfg.model[key] for key in cfg.model if key not in ('student', 'teacher')} == cfg.method


def test_the_example_of_the_readme():
    """It is the whole of a file, of three lines."""
    block = re.search('```python\n(.*?)```', BASELINES, re.DOTALL).group(1)
    assert (CONFIGS / EXAMPLE).read_text().partition('\n')[2] == block
    assert len(block.splitlines()) == 3
    check_method(parsed(EXAMPLE), parsed('rsd/swin-t_to_resnet18_cifar100.py'))
    assert [name for name in NAMES if name.startswith('baselines/')] == [EXAMPLE]


@pytest.mark.parametrize('method', METHODS)
def test_a_pair_with_another_method_trains(method, train, tmp_path):
    """By the three lines of the README, with the first one changed as it says; CRD has one more."""
    pair = 'quickstart/resnet_to_vit_digits.py'
    bases = [str(CONFIGS / pair), str(METHOD_FILES / f'{method}.py')]
    lines = ['', *(CONFIGS / EXAMPLE).read_text().splitlines()[2:]]
    if method == 'crd':
        lines[0] = re.search(r'`(_base_[.]method.*[)])`', BASELINES).group(1).replace('1281167', '1200')
    (tmp_path / 'method.py').write_text('\n'.join([f'_base_ = {bases}', *lines]))
    cfg = Config.fromfile(str(tmp_path / 'method.py'))
    check_method(cfg, parsed(pair))
    train(without_weights(cfg))


def test_every_method_is_in_the_readme():
    rows = [line.split('|')[1] for line in BASELINES.splitlines() if line.startswith('| `')]
    assert sorted(re.findall(r'`(\w+)`', ''.join(rows))) == sorted([*METHODS, 'rsd'])


def test_values_of_the_compared_methods():
    """Those of the releases of OFA-KD and RSD, and how ablations differ from RSD."""
    methods = {name: parsed(METHOD_FILES / f'{name}.py').method for name in METHODS}
    losses = {name: [dict(term.loss) for term in cfg.get('terms', {}).values()] for name, cfg in methods.items()}
    assert losses['kd'] == [dict(type='KDLoss', tau=1.0)]
    assert losses['dkd'] == [dict(type='DecoupledKDLoss', alpha=1.0, beta=2.0, tau=1.0)]
    assert losses['dist'] == [dict(type='StrongerTeacherLoss', beta=1.0, gamma=1.0, tau=1.0)]
    assert losses['ofa_logits'] == [dict(type='OFALoss', eps=1.0, tau=1.0)]
    assert losses['ofa'] == 5 * losses['ofa_logits']
    assert losses['fitnet'] == 4 * [dict(type='HintLoss', loss_weight=1.0)]
    assert losses['rkd'] == [dict(type='RKDLoss', distance_weight=25.0, angle_weight=50.0)]
    assert losses['cc'] == [dict(type='CCLoss', loss_weight=0.02)]
    assert losses['crd'] == [dict(type='CRDMemoryLoss', num_samples=50000, negatives=16384, momentum=0.5, tau=0.07)]
    assert losses['rsd_stages'] == 4 * [dict(type='RSDLoss', loss_weight=0.1, kappa=0.01)]
    assert methods['rsd_invariance'].loss == dict(kappa=0.0)
    assert methods['rsd_linear'].projector.type == 'LinearProjector'
    assert [methods[f'rsd_gamma{g}'].projector.expansion for g in (1, 4)] == [1, 4]


#: Multiply-adds of one image, by student.
FLOPS = {}


@pytest.mark.parametrize('name', PAIRS)
def test_stated_costs(name, monkeypatch):
    """READMEs and metafile state the parameters and FLOPs of the models; all methods are counted in one distiller."""
    for init in ('kaiming_uniform_', 'uniform_', 'trunc_normal_'):  # only sizes matter, and zeros are quicker
        monkeypatch.setattr(torch.nn.init, init, lambda tensor, *_, **__: tensor.detach().zero_())
    cfg = load(name)
    columns = re.findall(r'`(\w+)`', next(line for line in PARAMETERS.splitlines() if line.startswith('| pair')))
    terms = {}
    for method in columns[1:]:
        for term, options in copy.deepcopy(parsed(METHOD_FILES / f'{method}.py').method.terms).items():
            terms[f'{term}_of_{method}'] = options
    terms['loss_crd_of_crd'].loss.num_samples = 2
    model = MODELS.build(dict(cfg.model, terms=terms, data_preprocessor=cfg.data_preprocessor))
    counted = dict.fromkeys(columns, 0)
    for term, module in model.terms.items():
        counted[term.rpartition('_of_')[2].replace('loss_', '')] += sum(p.numel() for p in module.parameters())
    rsd = counted['rsd']
    counted['rsd_stages'] += rsd  # its term on embeddings is RSD's
    row = next(line for line in PARAMETERS.splitlines() if line.startswith(f'| {name[4:-3]} |')).split('|')[2:-1]
    assert [float(cell) for cell in row] == pytest.approx([counted[method] / 1e6 for method in columns], abs=0.0051)

    student = sum(p.numel() for p in model.student.parameters())
    key = str(cfg.model.student)
    if key not in FLOPS:
        info = get_model_complexity_info(model.student.eval(), (3, 224, 224), show_table=False, show_arch=False)
        FLOPS[key] = info['flops']
    row = next(line for line in README.splitlines() if f']({name[4:]})' in line).split('|')
    stated = [float(cell) for cell in row[4:7]]
    assert stated == pytest.approx([student / 1e6, FLOPS[key] / 1e9, rsd / 1e6], abs=0.006)
    entry = MODELS_BY_CONFIG[f'configs/{name}'].metadata.data
    keys = ('Parameters', 'FLOPs', 'Training-only Parameters')
    assert [entry[key] for key in keys] == [student, FLOPS[key], rsd]
