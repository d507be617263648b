# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from rsd_mm import TeacherAccuracyHook
from rsd_mm.engine.hooks import teacher_accuracy_hook
from rsd_mm.engine.hooks.teacher_accuracy_hook import _can_classify, _same_dataset
from rsd_mm.utils import load_strictly
from rsd_mm.utils.model_index import Published


@pytest.fixture
def train(root, tmp_path, teacher, caplog):
    """Distil on digits for one iteration; what the hook said, and the run."""

    def run(name, validate=True, student_weights=None, **hook):
        cfg = Config.fromfile(str(root / 'configs' / 'quickstart' / 'resnet_to_vit_digits.py'))
        cfg.model.teacher.checkpoint = teacher
        cfg.model.student.checkpoint = student_weights
        cfg.train_dataloader.dataset.indices = 64
        cfg.train_cfg.update(max_epochs=1, val_interval=1)  # mmengine 0.10.0 skips a last epoch between
        cfg.work_dir, cfg.randomness = str(tmp_path / name), dict(seed=0)
        cfg.experiment_name = f'{tmp_path.name}_{name}'
        cfg.default_hooks.teacher_accuracy.update(hook)
        if not validate:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        caplog.clear()
        runner = Runner.from_cfg(cfg)
        with caplog.at_level(logging.INFO, logger=runner.logger.name):
            runner.logger.addHandler(caplog.handler)
            runner.train()
        texts = [record for record in caplog.records if re.match(r'\W*(Teacher|Student)\b.* top-1 ', record.message)]
        return runner, texts

    return run


def accuracy_of(text):
    return float(text.split('top-1 ')[1].split(' ')[0])


def test_a_gap_is_a_warning(train):
    _, (found,) = train('a', expected=100)
    top1 = accuracy_of(found.message)
    assert top1 < 50  # its weights are random
    assert found.levelno == logging.WARNING
    assert f'{100 - top1:.2f} points apart' in found.message
    assert 'tools/check_teacher.py' in found.message
    # Within the tolerance it is told, and no more.
    _, (found,) = train('b', expected=top1 + 0.9)
    assert (found.levelno, accuracy_of(found.message)) == (logging.INFO, top1)
    _, (found,) = train('c', expected=top1 + 0.9, tolerance=0.5)
    assert found.levelno == logging.WARNING


def test_what_the_model_index_states_is_expected(train, monkeypatch):
    stated = Published('net', 'SklearnDigits', 98.0)
    monkeypatch.setattr(teacher_accuracy_hook, 'published_accuracy', lambda checkpoint: stated)
    _, (found,) = train('a')
    assert '98.00 % stated for net on SklearnDigits' in found.message
    _, found = train('b', enable=False)
    assert not found


def test_a_teacher_of_which_nothing_is_known_is_told_without_comparison(train):
    _, (found,) = train('a')
    assert found.levelno == logging.INFO
    assert 0 < accuracy_of(found.message) < 50
    assert found.message.endswith('; its accuracy is not known for comparison.')
    _, found = train('b', only_known=True)
    assert not found


@pytest.mark.parametrize(
    ('changes', 'worth'),
    [({}, True), (dict(head=dict(type='LinearClsHead', num_classes=7, in_channels=24)), False), (None, False)],
)
def test_what_a_teacher_of_other_classes_or_without_weights_predicts_is_no_accuracy(
    make_distiller, save_weights, swin, changes, worth
):
    cfg = dict(swin(), **changes or {})
    weights = dict(allow_random_weights=True) if changes is None else dict(checkpoint=save_weights(cfg))
    assert _can_classify(make_distiller(teacher=dict(cfg, **weights))) is worth


def test_a_student_that_starts_from_weights(train, root, save_weights):
    cfg = Config.fromfile(str(root / 'configs' / 'quickstart' / 'vit_digits.py'))
    weights = save_weights(cfg.model, 'student.pth')
    runner, (found,) = train('a', student_weights=weights, only_known=True)
    assert found.message.startswith(f'Student, weights {weights}: top-1 ')
    assert found.levelno == logging.INFO
    # Before the first iteration: it is that of the file, not of the student after it.
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    load_strictly(model, weights, 'student')
    right = 0
    with torch.no_grad():
        for batch in runner.val_dataloader:
            right += sum(int(sample.pred_label == sample.gt_label) for sample in model.val_step(batch))
    assert accuracy_of(found.message) == pytest.approx(100 * right / 597, abs=0.01)


@pytest.mark.parametrize(('option', 'told'), [(None, 0), (True, 1)])
def test_a_student_that_starts_at_random_is_evaluated_when_asked_for(train, option, told):
    _, found = train('a', only_known=True, student=option)
    assert len(found) == told


def test_training_goes_as_without_it(train):
    runs = [train(name, **hook)[0] for name, hook in dict(a=dict(expected=50), b=dict(enable=False)).items()]
    losses = [run.message_hub.get_scalar('train/loss').data[0] for run in runs]
    np.testing.assert_array_equal(*losses)
    top1 = [run.message_hub.get_scalar('val/accuracy/top1').data[0] for run in runs]
    np.testing.assert_array_equal(*top1)


def test_without_validation_there_is_nothing_to_evaluate_on(train):
    _, found = train('a', validate=False, expected=50)
    assert not found


@pytest.mark.parametrize('option', [dict(expected=120), dict(tolerance=-1)])
def test_percentages(option):
    with pytest.raises(ValueError, match='is in percent, from 0 to 100'):
        TeacherAccuracyHook(**option)


@pytest.mark.parametrize(
    ('stated', 'kind', 'classes', 'same'),
    [
        ('ImageNet-1k', 'ImageNet', 1000, True),
        ('ImageNet-1k', 'ImageNet', 10, False),
        ('CIFAR-100', 'CIFAR100', 1000, True),
        ('CIFAR-10', 'CIFAR100', 1000, False),
        ('ImageNet-1k', 'CustomDataset', 1000, False),
    ],
)
def test_the_dataset_has_to_be_the_one_of_the_figure(stated, kind, classes, same):
    dataset = type(kind, (), {})()
    dataset.metainfo = dict(classes=['x'] * 1000)
    assert _same_dataset(stated, dataset, classes) is same
    assert _same_dataset('ImageNet-1k', SimpleNamespace(), 1000) is False
