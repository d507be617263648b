# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    def __init__(self, size, classes):
        self.size, self.metainfo = size, dict(classes=tuple(map(str, range(classes))))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


@pytest.fixture
def check(make_distiller):
    distiller = make_distiller()

    def run(size=64, batch_size=8, drop_last=False, classes=10, model=distiller):
        loader = DataLoader(Images(size, classes), batch_size=batch_size, drop_last=drop_last)
        HOOKS.build(dict(type='DistillCheckHook')).before_train(SimpleNamespace(model=model, train_dataloader=loader))

    return run


def test_passes_what_is_fine(check):
    check()
    check(size=65, drop_last=True)
    check(size=66)


def test_last_batch_of_one(check):
    with pytest.raises(
        ValueError, match='with 65 samples per process and batch_size=8, the last batch .* drop_last=True'
    ):
        check(size=65)


def test_batch_of_one(check):
    with pytest.raises(ValueError, match='batch_size=1, but distillation correlates features'):
        check(batch_size=1)


def test_classes_of_the_dataset(check):
    with pytest.raises(ValueError, match='The training dataset has 7 classes, the student 10. Set student=dict'):
        check(classes=7)


def test_other_models_are_left_alone(check):
    check(batch_size=1, model=nn.Linear(1, 1))


def test_classes_without_an_image_are_named(make_distiller):
    dataset = Images(64, 10)
    dataset.get_gt_labels = lambda: [0, 1, 2, 3, 4, 5, 6, 8]
    warnings = []
    runner = SimpleNamespace(
        model=make_distiller(),
        train_dataloader=DataLoader(dataset, batch_size=8),
        logger=SimpleNamespace(warning=warnings.append),
    )
    HOOKS.build(dict(type='DistillCheckHook')).before_train(runner)
    assert warnings == ['2 of the 10 classes have no training image: 7, 9. Is the dataset complete?']
