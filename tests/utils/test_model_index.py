# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import pytest

from rsd_mm.models.reference import resolve_model
from rsd_mm.utils import model_index
from rsd_mm.utils.model_index import PUBLISHED_FILE, Published, classifiers, index_entry, published_accuracy

SWIN = 'swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'


@pytest.mark.parametrize('folder', ['', '/home/me/', 'https://example.com/v0/'])
def test_accuracy_by_the_name_of_the_file(folder):
    assert published_accuracy(folder + SWIN) == Published('swin-tiny_16xb64_in1k', 'ImageNet-1k', 81.18)


@pytest.mark.parametrize('name', ['mine.pth', 'mine-0123abcd.pth'])
def test_unknown_weights_have_no_accuracy(name):
    assert published_accuracy(name) is None


def test_weights_that_nobody_published_are_not_looked_up(monkeypatch):
    """Reading the index takes seconds, before the first iteration of every run."""
    weights = [model.weights for model in classifiers().values() if model.weights]
    assert len(weights) > 400
    assert all(PUBLISHED_FILE.search(url) for url in weights)
    monkeypatch.delattr(model_index, 'classifiers')
    assert published_accuracy('work_dirs/teacher/epoch_12.pth') is None
    with pytest.raises(NameError):
        published_accuracy(SWIN)


def test_names_tell_weights_of_one_config_apart():
    first, second = (
        resolve_model(dict(cfg_path=f'mmpretrain::{name}', pretrained=True), 'teacher')
        for name in ('convnext-tiny_32xb128_in1k', 'convnext-tiny_32xb128-noema_in1k')
    )
    assert first.model == second.model
    assert first.checkpoint.endswith('convnext-tiny_32xb128_in1k_20221207-998cf3e9.pth')
    assert second.checkpoint.endswith('convnext-tiny_32xb128-noema_in1k_20221208-5d4509c7.pth')
    assert first.checkpoint == index_entry('ConvNeXt-Tiny_32xb128_in1k', 'teacher').weights


def test_a_name_is_the_same_model_as_its_file():
    options = dict(head=dict(num_classes=7))
    by_name, by_file = (
        resolve_model(dict(cfg_path=f'mmpretrain::{path}', **options), 'student')
        for path in ('resnet18_8xb32_in1k', 'resnet/resnet18_8xb32_in1k.py')
    )
    assert by_name.model == by_file.model
    assert by_name.checkpoint is None


def test_unknown_names_suggest():
    message = "student: MMPretrain's model index has no classifier 'resnet19_8xb32_in1k'. Did you mean 'resnet1"
    with pytest.raises(ValueError, match=message):
        resolve_model(dict(cfg_path='mmpretrain::resnet19_8xb32_in1k'), 'student')


def test_models_of_other_tasks_are_no_classifiers():
    assert 'resnet50_8xb32_in1k' in classifiers()
    with pytest.raises(ValueError, match='no classifier'):
        index_entry('blip-base_3rdparty_caption', 'teacher')


def test_weights_that_are_not_published():
    name = next(name for name, model in classifiers().items() if not model.weights)
    with pytest.raises(ValueError, match='pretrained=True, but .* gives no weights'):
        resolve_model(dict(cfg_path=f'mmpretrain::{name}', pretrained=True), 'teacher')
