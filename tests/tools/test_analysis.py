# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The tools that look at trained students, on digits."""

import json

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CONFIG = 'configs/quickstart/resnet_to_vit_digits.py'


@pytest.fixture(scope='module')
def files(root, tmp_path_factory):
    """Random weights of the quickstart's teacher, and of its student twice."""
    init_default_scope('mmpretrain')
    place = tmp_path_factory.mktemp('analysis')
    for i, (name, config) in enumerate(dict(teacher='resnet_digits', alone='vit_digits', rsd='vit_digits').items()):
        torch.manual_seed(i)
        cfg = Config.fromfile(str(root / 'configs' / 'quickstart' / f'{config}.py'))
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), place / f'{name}.pth')
    return place


def run(run_tool, root, tool, files, *arguments, **options):
    students = [f'{label}={files / name}.pth' for label, name in dict(alone='alone', RSD='rsd').items()]
    given = ['--cfg-options', f'model.teacher.checkpoint={files / "teacher.pth"}']
    return run_tool(f'analysis/{tool}.py', CONFIG, *students, *arguments, *given, cwd=root, **options)


def test_similarity(run_tool, root, files, tmp_path):
    out = tmp_path / 'similarity.png'
    said = run(
        run_tool, root, 'similarity', files, '--images', 256, '-o', out, '--student-taps', 'stage1', 'embedding'
    ).stdout
    rows = [line.split('|')[1:-1] for line in said.splitlines() if line.startswith(('| stage1', '| embedding'))]
    assert len(rows) == 4  # two taps of two students
    assert all(-0.1 < float(cell) < 1 for row in rows for cell in row[1:])
    assert rows[:2] != rows[2:]
    assert cv2.imread(str(out)).shape[1] > 900  # a heat map each


def test_embedding(run_tool, root, files, tmp_path):
    out = tmp_path / 'embedding.png'
    said = run(run_tool, root, 'embedding', files, '--images', 100, '-o', out).stdout
    assert 'teacher: 128 features, effective rank ' in said
    assert 'RSD: 64 features' in said
    assert cv2.imread(str(out)).shape[1] > 1200  # three panels


def test_what_is_not_there(run_tool, root, files, tmp_path):
    done = run_tool('analysis/similarity.py', CONFIG, 'alone', cwd=root, check=False)
    assert "'alone': expected LABEL=CHECKPOINT" in done.stdout
    done = run_tool('analysis/similarity.py', CONFIG, 'alone=missing.pth', cwd=root, check=False)
    assert "'missing.pth' does not exist (looked in '" in done.stdout
    given = f'alone={files / "alone.pth"}'
    done = run_tool('analysis/similarity.py', 'configs/quickstart/vit_digits.py', given, cwd=root, check=False)
    assert 'is not a distillation: its model has no teacher' in done.stdout
    done = run_tool('analysis/curves.py', f'a={tmp_path}', cwd=root, check=False)
    assert "has no 'accuracy/top1'; it has: no log" in done.stdout


def test_curves_of_a_run_that_was_resumed(run_tool, root, tmp_path):
    for folder, lines in {
        '1': [dict(loss=3.0, step=1), {'accuracy/top1': 50.0, 'step': 1}, {'accuracy/top1': 60.0, 'step': 2}],
        '2': [{'accuracy/top1': 61.0, 'step': 2}, {'accuracy/top1': 70.0, 'step': 3}],
    }.items():
        (tmp_path / 'run' / folder / 'vis_data').mkdir(parents=True)
        text = '\n'.join(json.dumps(line) for line in lines)
        (tmp_path / 'run' / folder / 'vis_data' / 'scalars.json').write_text(text)
    out = tmp_path / 'curves.png'
    said = run_tool('analysis/curves.py', f'RSD={tmp_path / "run"}', '-o', out, cwd=root).stdout
    assert 'RSD: accuracy/top1 70 at the end, 70 at most (3 values)' in said
    assert cv2.imread(str(out)) is not None
    done = run_tool('analysis/curves.py', f'RSD={tmp_path / "run"}', '--key', 'lr', cwd=root, check=False)
    assert "has no 'lr'; it has: accuracy/top1, loss." in done.stdout
