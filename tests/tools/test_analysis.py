# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The tools for trained students, on digits."""

import json
import runpy

import cv2
import pytest
from mmengine.registry import MODELS

from rsd_mm.models.taps import resolve_tap

CONFIG = 'configs/quickstart/resnet_to_vit_digits.py'


@pytest.fixture(scope='module')
def files(digits_weights, place):
    """Random weights of the quickstart's teacher, and of its student twice."""
    for i, (name, config) in enumerate(dict(teacher='resnet_digits', alone='vit_digits', rsd='vit_digits').items()):
        digits_weights(config, place / f'{name}.pth', seed=i)
    return place


@pytest.fixture
def run(call_tool, files):
    def run_on_students(tool, *arguments):
        students = [f'{label}={files / name}.pth' for label, name in dict(alone='alone', RSD='rsd').items()]
        given = ['--cfg-options', f'model.teacher.checkpoint={files / "teacher.pth"}']
        return call_tool(f'analysis/{tool}.py', CONFIG, *students, *arguments, *given).stdout

    return run_on_students


def test_similarity(run, tmp_path):
    out = tmp_path / 'similarity.png'
    printed = run('similarity', '--images', 256, '-o', out, '--student-taps', 'stage1', 'embedding')
    rows = [line.split('|')[1:-1] for line in printed.splitlines() if line.startswith(('| stage1', '| embedding'))]
    assert len(rows) == 4  # two taps of two students
    assert all(-0.1 < float(cell) < 1 for row in rows for cell in row[1:])
    assert rows[:2] != rows[2:]
    assert cv2.imread(str(out)).shape[1] > 900  # a heat map each


def test_stages_that_a_network_lacks_are_left_out(swin, root, capsys):
    module = runpy.run_path(str(root / 'tools/analysis/similarity.py'))
    model = MODELS.build(swin())
    taps = module['resolve_taps'](module['STAGES'], lambda name: resolve_tap(model, name, 'student'))
    assert list(taps) == ['embedding']
    assert capsys.readouterr().out.count('LEFT OUT: stage') == 4
    with pytest.raises(SystemExit, match='no four stages .* Choose with --student-taps and --teacher-taps.'):
        module['resolve_taps'](['stage1'], lambda name: resolve_tap(model, name, 'student'))


def test_embedding(run, tmp_path):
    out = tmp_path / 'embedding.png'
    printed = run('embedding', '--images', 100, '-o', out)
    assert 'teacher: 128 features, effective rank ' in printed
    assert 'RSD: 64 features' in printed
    assert cv2.imread(str(out)).shape[1] > 1200  # three panels


def test_what_is_not_there(call_tool, files, tmp_path):
    for command, message in (
        (['similarity.py', CONFIG, 'alone'], "'alone': expected LABEL=CHECKPOINT"),
        (['similarity.py', CONFIG, 'alone=missing.pth'], "'missing.pth' does not exist (looked in '"),
        (
            ['similarity.py', 'configs/quickstart/vit_digits.py', f'alone={files / "alone.pth"}'],
            'is not a distillation: its model has no teacher',
        ),
        (['embedding.py', CONFIG, 'a=a.pth', '--images', '20'], '--images has to exceed the perplexity, 30.'),
        (['curves.py', f'a={tmp_path}'], "has no 'accuracy/top1'; it has: no log"),
    ):
        done = call_tool(f'analysis/{command[0]}', *command[1:], check=False)
        assert done.returncode
        assert message in done.stdout


def test_curves_of_a_run_that_was_resumed(call_tool, tmp_path):
    for folder, lines in {
        '1': [dict(loss=3.0, step=1), {'accuracy/top1': 50.0, 'step': 1}, {'accuracy/top1': 60.0, 'step': 2}],
        '2': [{'accuracy/top1': 61.0, 'step': 2}, {'accuracy/top1': 70.0, 'step': 3}],
    }.items():
        (tmp_path / 'run' / folder / 'vis_data').mkdir(parents=True)
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        # It was killed while it wrote the last line.
        (tmp_path / 'run' / folder / 'vis_data' / 'scalars.json').write_text(text + '{"accuracy/to')
    out = tmp_path / 'curves.png'
    printed = call_tool('analysis/curves.py', f'RSD={tmp_path / "run"}', '-o', out).stdout
    assert 'RSD: accuracy/top1 70 at the end, 70 at most (3 values)' in printed
    assert cv2.imread(str(out)) is not None
    done = call_tool('analysis/curves.py', f'RSD={tmp_path / "run"}', '--key', 'lr', check=False)
    assert "has no 'lr'; it has: accuracy/top1, loss." in done.stdout
