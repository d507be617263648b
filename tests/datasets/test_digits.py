# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
from mmengine.registry import DATASETS
from sklearn.datasets import load_digits

from rsd_mm.datasets import digits


def build(**options):
    return DATASETS.build(dict(type='SklearnDigits', **options))


def test_splits_are_the_whole_in_order_without_overlap():
    train, test = build(split='train'), build(split='test', test_mode=True)
    assert (len(train), len(test)) == (1200, 597)
    everything = load_digits()
    images = np.stack([train[i]['img'] for i in range(1200)] + [test[i]['img'] for i in range(597)])
    assert images.shape == (1797, 8, 8, 3)
    assert images.dtype == np.uint8
    assert images.max() == 255
    np.testing.assert_array_equal(np.round(images[..., 0] * (16 / 255)), everything.images)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    labels = np.concatenate([train.get_gt_labels(), test.get_gt_labels()])
    np.testing.assert_array_equal(labels, everything.target)


def test_it_is_an_mmpretrain_dataset():
    pipeline = [dict(type='RandomCrop', crop_size=8, padding=1), dict(type='PackInputs')]
    dataset = build(pipeline=pipeline, indices=100)
    assert len(dataset) == 100
    assert tuple('0123456789') == dataset.CLASSES
    assert 'Split: \ttrain' in repr(dataset)
    item = dataset[0]
    assert item['inputs'].shape == (3, 8, 8)
    assert item['data_samples'].gt_label.tolist() == [0]


def test_is_read_once():
    digits._digits.cache_clear()
    build(), build(split='test')
    assert digits._digits.cache_info().misses == 1


def test_unknown_split():
    with pytest.raises(ValueError, match="split is one of train, test, received 'val'"):
        build(split='val')


def test_without_scikit_learn(monkeypatch):
    digits._digits.cache_clear()
    monkeypatch.setitem(__import__('sys').modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='which is not installed. To install it: pip install scikit-learn'):
        build()
