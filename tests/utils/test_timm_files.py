# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""State dicts of timm 0.6.5, in which the paper's CIFAR-100 teachers are published, load and compute the same here."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

from rsd_mm.models.distillers import Teacher
from rsd_mm.utils import CheckpointError

DATA = Path(__file__).resolve().parents[1] / 'data'
EXPECTED = json.loads((DATA / 'timm_0_6_5.json').read_text())
spec = importlib.util.spec_from_file_location('make_timm_0_6_5', DATA / 'make_timm_0_6_5.py')
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


@pytest.fixture
def build(tmp_path):
    def build_teacher(name, state):
        path = str(tmp_path / 'teacher.pth')
        torch.save(state, path)
        cfg = dict(type='TimmClassifier', model_name=name, num_classes=100, checkpoint=path)
        return Teacher.from_config(cfg, MODELS.build(dict(type='ClsDataPreprocessor')))

    return build_teacher


SWIN = 'swin_tiny_patch4_window7_224'


@pytest.mark.parametrize(
    ('name', 'wrap'), [*((name, None) for name in EXPECTED), (SWIN, 'state_dict'), (SWIN, 'model')]
)
def test_outputs_are_those_of_timm_0_6_5(name, wrap, build):
    expected = EXPECTED[name]
    state = made.weights(expected['state'])
    teacher = build(name, {wrap: state} if wrap else state)
    taps = [teacher.tap('embedding'), teacher.tap('logits')]
    out = teacher(made.image(), taps)
    for tap, key in zip(taps, ('embedding', 'logits')):
        torch.testing.assert_close(out[tap], torch.tensor([expected[key]]), rtol=0, atol=1e-4)


def test_they_are_still_strict(build):
    state = made.weights(EXPECTED[SWIN]['state'])
    del state['layers.2.blocks.3.mlp.fc1.weight']
    with pytest.raises(CheckpointError, match='1 missing: model.layers.2.blocks.3.mlp.fc1.weight'):
        build(SWIN, state)
    state = made.weights(EXPECTED[SWIN]['state'])
    state['head.weight'] = torch.zeros(1000, 768)
    with pytest.raises(CheckpointError, match='of another shape: .*head.*1000, 768. in the file, .100, 768. in the'):
        build(SWIN, state)
