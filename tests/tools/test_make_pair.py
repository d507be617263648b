# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Configs that tools/make_pair.py writes, for names of MMPretrain's index and of timm."""

import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from zoo import ARCHITECTURES

from rsd_mm.models.reference import resolve_model
from rsd_mm.utils.model_index import index_entry

RESNET, MOBILENET, DEIT = 'resnet18_8xb32_in1k', 'mobilenet-v3-small-050_3rdparty_in1k', 'deit-tiny_4xb256_in1k'


@pytest.fixture
def make(call_tool, tmp_path):
    """Run the tool; the config that it wrote, and what it printed."""

    def run(teacher, student, dataset, *arguments, error=None):
        path = str(tmp_path / 'configs' / 'pair.py')
        names = ['--teacher', teacher, '--student', student, '--dataset', dataset]
        done = call_tool('make_pair.py', *names, '-o', path, *arguments, check=error is None)
        if error is None:
            return Config.fromfile(path), done.stdout
        assert done.returncode == 1
        assert re.search(error, done.stdout), done.stdout
        return None

    return run


@pytest.fixture
def folder(tmp_path):
    """Three classes of a few images in folders."""
    generator = np.random.default_rng(0)
    root = tmp_path / 'flowers'
    for split, count in dict(train=6, val=2).items():
        for label in ('daisy', 'rose', 'tulip'):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                image = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                cv2.imwrite(str(root / split / label / f'{i}.jpg'), image)
    return root


def recipe(cfg):
    student = resolve_model(cfg.model.student, 'student').model
    augments = [step['type'] for step in (student.get('train_cfg') or {}).get('augments', [])]
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    return cfg.optim_wrapper.optimizer.type, 'RandAugment' in steps, augments, cfg.train_cfg.max_epochs


CNN, MIXED = ('SGD', False, []), ('AdamW', True, ['Mixup', 'CutMix'])


@pytest.mark.parametrize(
    ('student', 'dataset', 'expected'),
    [
        (RESNET, 'in1k', (*CNN, 100)),
        (RESNET, 'cifar100', (*CNN, 300)),
        (DEIT, 'in1k', (*MIXED, 300)),
        (DEIT, 'cifar100', (*MIXED, 300)),
        ('timm/resnet18', 'in1k', (*CNN, 100)),
        ('timm/resmlp_12_224', 'cifar100', (*MIXED, 300)),
        ('timm/vit_tiny_patch16_224', 'in1k', (*MIXED, 300)),
        # Their own configs have other losses and augmentation, which the recipe replaces.
        ('resnet50_8xb256-rsb-a3-100e_in1k', 'in1k', (*CNN, 100)),
        ('mobilevit-xxsmall_3rdparty_in1k', 'cifar100', (*MIXED, 300)),
        ('levit-128s_3rdparty_in1k', 'cifar100', (*MIXED, 300)),
    ],
)
def test_recipe_by_the_students_family(make, student, dataset, expected):
    cfg, _ = make(MOBILENET, student, dataset)
    assert recipe(cfg) == expected
    model = resolve_model(cfg.model.student, 'student').model
    loss = (model if model.type == 'TimmClassifier' else model.head).get('loss', dict(type='CrossEntropyLoss'))
    smooth = dataset == 'cifar100' or expected[0] == 'AdamW'
    assert loss['type'] == ('LabelSmoothLoss' if smooth else 'CrossEntropyLoss')
    # MobileViT's images are of 256 px, the teacher's are not.
    size = dict(input_size=224) if 'mobilevit' in student else {}
    assert cfg.model.teacher == dict(cfg_path=f'mmpretrain::{MOBILENET}', pretrained=True, **size)


def test_the_recipe_may_be_chosen(make):
    cfg, printed = make(RESNET, MOBILENET, 'cifar100', '--recipe', 'token')
    assert recipe(cfg) == (*MIXED, 300)
    assert 'token recipe' in printed


def test_a_published_pair_gets_its_shipped_recipe(make, root):
    cfg, _ = make('swin-tiny_16xb64_in1k', 'mobilenet-v2_8xb32_in1k', 'in1k')
    shipped = Config.fromfile(str(root / 'configs' / 'rsd' / 'swin-t_to_mobilenetv2_in1k.py'))
    for role in ('student', 'teacher'):
        assert resolve_model(cfg.model[role], role)[:2] == resolve_model(shipped.model[role], role)[:2]
    assert {key: cfg[key] for key in cfg if key != 'model'} == {key: shipped[key] for key in shipped if key != 'model'}


def test_a_folder_of_images_trains_as_it_is(make, folder, tmp_path):
    cfg, printed = make(RESNET, MOBILENET, folder)
    assert 'on 3 classes, cnn recipe; student 0.57 M parameters, projector 3.15 M' in printed
    assert 'The published teacher classifies its own dataset.' in printed
    model = resolve_model(cfg.model.student, 'student').model
    assert (model.head.num_classes, cfg.data_preprocessor.num_classes) == (3, 3)
    cfg.model.teacher.update(pretrained=False, allow_random_weights=True)
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[field].update(batch_size=4, num_workers=0, persistent_workers=False)
        cfg[field].collate_fn = dict(type='default_collate')
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir, cfg.log_level = str(tmp_path / 'work'), 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4
    assert runner.train_dataloader.dataset.metainfo['classes'] == ('daisy', 'rose', 'tulip')
    scalars = runner.message_hub.log_scalars
    assert all(np.isfinite(scalars['train/loss_rsd'].data[0]))
    assert 'val/accuracy/top1' in scalars


def test_a_teacher_that_is_fine_tuned_first(make, folder, tmp_path):
    out = tmp_path / 'configs' / 'pair.py'
    cfg, printed = make(MOBILENET, RESNET, folder, '--finetune-teacher')
    tuned = out.with_name(f'{MOBILENET}_flowers.py')
    assert f'First the teacher:  python tools/train.py {tuned}' in printed
    assert cfg.model.teacher == dict(cfg_path=str(tuned), checkpoint=f'work_dirs/{MOBILENET}_flowers/epoch_30.pth')
    teacher = Config.fromfile(str(tuned))
    assert teacher.model.backbone.init_cfg.prefix == 'backbone'
    assert teacher.model.backbone.init_cfg.checkpoint.startswith('https://')
    assert teacher.model.head.num_classes == 3
    # What it trains is what the pair takes.
    model = MODELS.build(dict(teacher.model, _scope_='mmpretrain'))
    checkpoint = tmp_path / 'epoch_30.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    cfg.model.teacher.checkpoint = str(checkpoint)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    assert MODELS.build(cfg.model).teacher.model.head.layers[-1].fc.out_features == 3


def test_a_fine_tuned_timm_teacher_is_normalized_as_published(make, folder, tmp_path):
    cfg, _ = make('timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k', RESNET, folder, '--finetune-teacher')
    teacher = Config.fromfile(cfg.model.teacher.cfg_path)
    assert teacher.data_preprocessor.mean == [127.5, 127.5, 127.5]
    assert (teacher.model.pretrained, teacher.model.num_classes) == (True, 3)


@pytest.mark.parametrize(('classes', 'given'), [(1000, {}), (3, dict(head=dict(num_classes=3)))])
def test_the_classes_of_a_teachers_file_are_found(make, folder, tmp_path, classes, given):
    model = resolve_model(dict(cfg_path=f'mmpretrain::{MOBILENET}', head=dict(num_classes=classes)), 'teacher').model
    path = str(tmp_path / 'teacher.pth')
    torch.save(MODELS.build(model).state_dict(), path)
    cfg, _ = make(MOBILENET, RESNET, folder, '--teacher-checkpoint', path)
    assert cfg.model.teacher == dict(cfg_path=f'mmpretrain::{MOBILENET}', checkpoint=path, **given)


def test_a_teachers_file_that_does_not_fit(make, folder, tmp_path, save_weights, cnn):
    error = 'make_pair: Checkpoint .* does not fit the teacher'
    make(MOBILENET, RESNET, folder, '--teacher-checkpoint', save_weights(cnn()), error=error)


def test_sizes_and_normalization_of_the_networks(make):
    """Images are as large as the student was published for; the teacher gets its own."""
    cfg, _ = make('timm/vit_tiny_patch16_384', 'swinv2-tiny-w8_3rdparty_in1k-256px', 'in1k')
    assert cfg.model.teacher.input_size == 384
    assert cfg.model.teacher.data_preprocessor == dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    sizes = {
        step.type: step.get('scale') or step.get('crop_size')
        for field in ('train_dataloader', 'val_dataloader')
        for step in cfg[field].dataset.pipeline
    }
    assert (sizes['RandomResizedCrop'], sizes['ResizeEdge'], sizes['CenterCrop']) == (256, 293, 256)
    assert cfg.test_dataloader == cfg.val_dataloader


def test_models_for_linear_probing_learn_whole(make):
    cfg, _ = make(RESNET, 'vit-small-p16_mocov3-pre_8xb128-linear-coslr-90e_in1k', 'cifar100')
    student = MODELS.build(resolve_model(cfg.model.student, 'student').model)
    assert all(parameter.requires_grad for parameter in student.backbone.layers.parameters())


@pytest.mark.parametrize(
    ('teacher', 'student', 'dataset', 'message'),
    [
        ('resnet19_8xb32_in1k', RESNET, 'in1k', "teacher: MMPretrain's model index has no classifier 'resnet19"),
        (RESNET, 'resnet19', 'in1k', "student: MMPretrain's model index has no classifier 'resnet19'"),
        (RESNET, 'timm/vit_nano', 'in1k', "student: timm has no model 'vit_nano'. Did you mean 'timm/"),
        (RESNET, RESNET, 'cifar', "--dataset is in1k, cifar100 or a folder; 'cifar' is none of them"),
        ('hivit-tiny-p16_16xb64_in1k', RESNET, 'in1k', 'teacher: no weights are published for hivit-tiny'),
        ('cn-clip_resnet50_zeroshot-cls_cifar100', RESNET, 'cifar100', 'is a ChineseCLIP, which has no classifier'),
    ],
)
def test_what_is_not_there(make, tmp_path, teacher, student, dataset, message):
    make(teacher, student, dataset, error=re.escape(message))
    assert not list(tmp_path.glob('configs/*'))  # nothing half done is left


def test_folders_of_another_layout(make, folder):
    (folder / 'train' / 'weeds').mkdir()
    make(RESNET, RESNET, folder, error='with the same classes in both; in one of them only: weeds')
    (folder / 'val').rename(folder / 'validation')
    make(RESNET, RESNET, folder, error="it has no folder 'val'")


def test_files_are_not_overwritten(make, tmp_path):
    path = tmp_path / 'configs' / 'pair.py'
    path.parent.mkdir()
    path.write_text('mine = True')
    make(RESNET, MOBILENET, 'in1k', error="pair.py' exists. Choose another name with -o, or overwrite it with --force")
    make('hivit-tiny-p16_16xb64_in1k', MOBILENET, 'in1k', '--force', error='no weights are published')
    assert path.read_text() == 'mine = True'
    cfg, _ = make(RESNET, MOBILENET, 'in1k', '--force')
    assert cfg.train_dataloader.dataset.type == 'ImageNet'


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_every_architecture(make, name):
    """As student and as teacher; what is written has been built and given a batch."""
    teacher = name if index_entry(name, 'teacher').weights else 'swin-tiny_16xb64_in1k'
    cfg, printed = make(teacher, name, 'cifar100')
    assert 'on 100 classes' in printed
    assert cfg.model.student.cfg_path == f'mmpretrain::{name}'


# Of timm, those whose classifiers are out of the ordinary: several, or a convolution.
TIMM = ['crossvit_9_240', 'deit_tiny_distilled_patch16_224', 'dla34', 'dpn68', 'efficientformer_l1', 'efficientvim_m1']
TIMM += ['levit_128s', 'repvit_m1', 'resnetv2_18', 'swiftformer_s', 'vitamin_small_224', 'volo_d1_224']


@pytest.mark.slow
@pytest.mark.parametrize('name', TIMM)
def test_unusual_classifiers_of_timm(make, name):
    _, printed = make(RESNET, f'timm/{name}', 'in1k')
    assert 'on 1000 classes' in printed
