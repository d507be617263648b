# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A trained student as the backbone of a detector or a segmenter: what MMDetection and MMSegmentation load."""

import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS


def resnet(**options):
    return dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, _scope_='mmpretrain', **options)


@pytest.fixture
def distiller(make_distiller):
    return make_distiller(
        dict(
            type='ImageClassifier',
            backbone=resnet(),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        )
    )


@pytest.mark.parametrize(('owner', 'prefix'), [('student', 'backbone.'), ('distiller', 'student.backbone.')])
def test_backbone_of_a_detector(distiller, tmp_path, owner, prefix, capsys):
    source = distiller if owner == 'distiller' else distiller.student
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=source.state_dict(), meta={}), path)
    # As a detector has it: all stages, the first frozen, BatchNorm in eval.
    options = dict(out_indices=(0, 1, 2, 3), frozen_stages=1, norm_eval=True)
    backbone = MODELS.build(resnet(**options, init_cfg=dict(type='Pretrained', prefix=prefix, checkpoint=path)))
    backbone.init_weights()
    state, trained = backbone.state_dict(), distiller.student.backbone.state_dict()
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[key], value) for key, value in trained.items())
    assert not any(word in capsys.readouterr().out for word in ('unexpected', 'missing'))
    assert [stage.shape[1] for stage in backbone(torch.randn(1, 3, 64, 64))] == [8, 16, 32, 64]


def test_a_process_without_rsd_mm_reads_the_students_checkpoint(distiller, tmp_path):
    path = tmp_path / 'student.pth'
    torch.save(dict(state_dict=distiller.student.state_dict()), path)
    code = (
        'import sys; from mmengine.runner.checkpoint import _load_checkpoint_with_prefix as load; '
        f'print(len(load("backbone.", {str(path)!r}))); assert "rsd_mm" not in sys.modules'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split()[-1:] == [str(len(distiller.student.backbone.state_dict()))], done.stderr[-2000:]
