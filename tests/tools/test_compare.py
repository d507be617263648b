# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A real race on digits: interrupted, resumed, and what it reports."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from common.jobs import Run
from common.methods import with_method
from common.race import count_extra_parameters
from common.results import results_table, summarize

ROOT = Path(__file__).resolve().parents[2]
PAIR = ROOT / 'configs' / 'quickstart' / 'resnet_to_vit_digits.py'


@pytest.fixture(scope='module')
def race_place(place, digits_weights):
    """A folder with a teacher, which is what the pair's config names."""
    digits_weights('resnet_digits', place / 'work_dirs' / 'quickstart' / 'resnet_digits' / 'epoch_12.pth')
    return place


@pytest.fixture(scope='module')
def interrupted(race_place, call_tool):
    """A race that was terminated while its second run trained, and then the same command again."""
    options = ['--methods', 'kd', '--seeds', '1', '--epochs', '2', '--work-dir', 'race', '--cfg-options']
    # Data workers that persist must not keep a run from exiting.
    options += ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    command = [sys.executable, str(ROOT / 'tools' / 'compare.py'), str(PAIR), *options]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with open(race_place / 'first.log', 'w') as log:
        process = subprocess.Popen(command, cwd=race_place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        # The second run has saved its first epoch.
        while not (race_place / 'race' / 'kd_seed0' / 'last_checkpoint').exists() and process.poll() is None:
            assert time.monotonic() < deadline, (race_place / 'first.log').read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    first = (race_place / 'first.log').read_text()
    before = {path: path.stat().st_mtime for path in (race_place / 'race' / 'alone_seed0').rglob('*.pth')}
    return first, before, call_tool('compare.py', PAIR, *options, cwd=race_place).stdout


def test_interrupted_and_continued(race_place, interrupted):
    first, before, second = interrupted
    assert 'Interrupted. Repeat the command to resume.' in first
    assert re.search(r'\[1/2\] alone, seed 0: \d+\.\d', first)
    assert '1 of 2 runs are finished already.' in second
    assert before
    assert all(path.stat().st_mtime == when for path, when in before.items())  # not trained again
    log = (race_place / 'race' / 'kd_seed0' / 'train.log').read_text()
    # From the iteration at which it was terminated, or the end of the epoch before.
    (resumed,) = re.findall(r'resumed epoch: 1, iter: (\d+)', log)
    assert int(resumed) >= 18


def test_result(race_place, interrupted):
    folder = race_place / 'race'
    result = json.loads((folder / 'race.json').read_text())
    assert (result['metric'], result['not_the_same']) == ('accuracy/top1', [])
    alone, kd = result['results']
    assert (alone['name'], kd['name'], alone['gain']) == ('alone', 'kd', None)
    for model in (alone, kd):
        assert model['seeds'] == [0]
        ((steps, values),) = model['curves']
        # An interruption between the end of an epoch and its validation leaves a gap in the curve.
        assert (steps[-1], values[-1]) == (2, model['values'][0])
        assert 0 < model['seconds_per_iter'] < 30
        assert 100 < model['resident_memory_mb'] < 20000
        assert model['extra_parameters'] == 0
    table = (folder / 'race.md').read_text()
    assert re.search(rf'\| kd +\| {kd["values"][0]:.1f} +\| [+-]\d', table)
    assert table.strip() in interrupted[2]
    assert cv2.imread(str(folder / 'race.png')).std() > 10


def test_another_race_in_the_same_folder_is_refused(call_tool, race_place, interrupted):
    options = ['--methods', 'kd', '--seeds', '1', '--epochs', '3', '--work-dir', 'race']
    done = call_tool('compare.py', PAIR, *options, cwd=race_place, check=False)
    assert done.returncode == 1
    assert "'race' holds a race whose alone_seed0 has another config" in done.stdout


def test_a_run_that_fails_does_not_end_the_others(call_tool, race_place):
    """Configs given one by one; the first one's data breaks while it trains."""
    base = f"_base_ = '{ROOT}/configs/quickstart/vit_digits.py'\n"
    (race_place / 'plain.py').write_text(base)
    broken = "train_dataloader = dict(collate_fn=dict(type='no_such_function'))\n"
    (race_place / 'broken.py').write_text(base + broken)
    done = call_tool(
        *('compare.py', 'broken.py', 'plain.py', '--seeds', '1', '--epochs', '1', '--work-dir', 'mixed'),
        *('--jobs', '2', '--cfg-options', 'train_dataloader.dataset.indices=128'),
        cwd=race_place,
        check=False,
    )
    assert done.returncode == 1
    assert 'NOT THE SAME FOR ALL, so the race is not fair: plain: train_dataloader' in done.stdout
    assert 'broken, seed 0: FAILED (1)' in done.stdout
    assert 'the first argument must be callable' in done.stdout  # the end of its log
    assert re.search(r'\| broken +\| no finished run', done.stdout)
    assert re.search(r'\| plain +\| \d', done.stdout)
    assert '1 of 2 runs failed: broken, seed 0.' in done.stdout
    assert not json.loads((race_place / 'mixed' / 'race.json').read_text())['results'][0]['values']


def test_gains_are_of_the_same_seeds(tmp_path):
    """The baseline's second seed and the method's third are not finished."""
    accuracies = dict(alone=[50.0, None, 52.0], rsd=[60.0, 70.0, None], kd=[None, 40.0, 48.0])
    runs = []
    for name, values in accuracies.items():
        for seed, value in enumerate(values):
            run = Run(name, seed, str(tmp_path / f'{name}_{seed}'), '', '', 2)
            folder = Path(run.folder) / 'date' / 'vis_data'
            folder.mkdir(parents=True)
            records = [dict(loss=1.0, time=0.5, epoch=1, step=18)]
            records += [{'accuracy/top1': 10.0, 'step': 1}] + [{'accuracy/top1': value, 'step': 2}] * (
                value is not None
            )
            (folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records))
            runs.append(run)
    results = summarize(runs, dict(alone=0, rsd=1234, kd=0), 'accuracy/top1')
    assert [result['seeds'] for result in results] == [[0, 2], [0, 1], [1, 2]]
    assert [result['mean'] for result in results] == [51.0, 65.0, 44.0]
    assert [result['gain'] for result in results] == [None, 10.0, -4.0]
    row = results_table(results, 'accuracy/top1').splitlines()[3]
    assert [cell.strip() for cell in row.split('|')[1:-1]] == [
        *('rsd', '65.0 +- 7.1', '+10.0 +- 0.0', '2', '0.500', '1,234', '0')
    ]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'kdd'], "--methods: invalid choice: 'kdd' (choose from"),
        (['--seeds', '0'], '--seeds: expected a positive integer, received 0'),
        (['other.py', '--methods', 'kd'], '--methods takes the config of one pair, received 2'),
    ],
)
def test_bad_arguments(call_tool, tmp_path, arguments, message):
    done = call_tool('compare.py', PAIR, *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stdout


def with_terms(student, teacher, **terms):
    return Config(dict(model=dict(type='Distiller', student=student, teacher=teacher, terms=terms)))


def test_a_method_that_does_not_fit_is_left_out(cnn, swin):
    student, teacher = swin(), dict(cnn(), allow_random_weights=True)
    kd = dict(student_tap='logits', teacher_tap='logits', loss=dict(type='KDLoss'))
    hint = dict(student_tap='stage4', projector=dict(type='HintRegressor'), loss=dict(type='HintLoss'))
    models = dict(
        alone=Config(dict(model=student)),
        kd=with_terms(student, teacher, loss_kd=kd),
        fitnet=with_terms(student, teacher, loss_hint=hint),
    )
    counts, left_out = count_extra_parameters(models, ['kd', 'fitnet'])
    assert counts == dict(alone=0, kd=0)
    assert list(left_out) == ['fitnet']
    assert left_out['fitnet'].startswith('student: ImageClassifier has no four stages that can be located')
    for droppable in (['fitnet'], ['kd']):  # nothing would be left to compare, or it was given as a config
        with pytest.raises(SystemExit, match='fitnet cannot be built, so nothing was started. student: ImageClass'):
            count_extra_parameters(models, droppable)


def test_the_methods_of_the_readme_fit_its_pair(call_tool, tmp_path):
    readme = (ROOT / 'README.md').read_text()
    (methods,) = re.findall(r'tools/compare.py CONFIG --methods ([a-z ]+) --seeds', readme)
    ((arguments, student),) = re.findall(
        r'tools/make_pair.py (--teacher \S+ --student (\S+)) --dataset data/flowers', readme
    )
    for split in ('train', 'val'):
        for i, name in enumerate(('daisy', 'rose')):
            (tmp_path / 'flowers' / split / name).mkdir(parents=True)
            image = np.full((40, 40, 3), 100 * i, np.uint8)
            cv2.imwrite(str(tmp_path / 'flowers' / split / name / '0.jpg'), image)
    call_tool('make_pair.py', *arguments.split(), '--dataset', tmp_path / 'flowers', '-o', tmp_path / 'pair.py')
    pair = Config.fromfile(tmp_path / 'pair.py')
    assert student == 'mobilenet-v3-small_8xb128_in1k'
    pair.model.teacher.update(pretrained=False, allow_random_weights=True)
    logits = ('kd', 'dkd', 'dist', 'ofa')  # whose teacher has to know the classes
    pair.model.teacher.head = dict(num_classes=2)
    models = {name: with_method(pair, name) for name in methods.split()}
    assert set(logits) < set(models)
    counts, left_out = count_extra_parameters(models, list(models))
    assert left_out == {}
    assert counts['ofa'] > counts['kd'] == 0


def test_what_cannot_be_built_is_told_before_anything_is_trained(call_tool, tmp_path):
    options = ['--methods', 'kd', '--seeds', '1', '--work-dir', 'race']
    done = call_tool('compare.py', PAIR, *options, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert 'kd cannot be built, so nothing was started. Checkpoint' in done.stdout
    assert not (tmp_path / 'race').exists()
