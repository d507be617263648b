# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A real race on digits: interrupted, continued, and what it says of itself."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
PAIR = ROOT / 'configs' / 'quickstart' / 'resnet_to_vit_digits.py'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A work place with a teacher, which is what the pair's config names."""
    place = tmp_path_factory.mktemp('race')
    folder = place / 'work_dirs' / 'quickstart' / 'resnet_digits'
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    cfg = Config.fromfile(str(ROOT / 'configs' / 'quickstart' / 'resnet_digits.py'))
    torch.save(MODELS.build(dict(cfg.model, _scope_='mmpretrain')).state_dict(), folder / 'epoch_12.pth')
    return place


def race(run_tool, place, *arguments, check=True):
    return run_tool('compare.py', PAIR, *arguments, cwd=place, check=check)


@pytest.fixture(scope='module')
def interrupted(place):
    """A race that was told to end while its second run trained, and then the same command again."""
    options = ['--methods', 'kd', '--seeds', '1', '--epochs', '2', '--work-dir', 'race', '--cfg-options']
    # Data workers that persist must not keep a run from exiting.
    options += ['train_dataloader.num_workers=2', 'train_dataloader.persistent_workers=True']
    command = [sys.executable, str(ROOT / 'tools' / 'compare.py'), str(PAIR), *options]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with open(place / 'first.log', 'w') as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        # The second run has saved its first epoch.
        while not (place / 'race' / 'kd_seed0' / 'last_checkpoint').exists() and process.poll() is None:
            assert time.monotonic() < deadline, (place / 'first.log').read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    first = (place / 'first.log').read_text()
    before = {path: path.stat().st_mtime for path in (place / 'race' / 'alone_seed0').rglob('*.pth')}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return first, before, done.stdout


def test_interrupted_and_continued(place, interrupted):
    first, before, second = interrupted
    assert 'Interrupted. The same command continues.' in first
    assert re.search(r'\[1/2\] alone, seed 0: \d+\.\d', first)
    assert '1 of 2 runs are finished already.' in second
    assert before
    assert all(path.stat().st_mtime == when for path, when in before.items())  # not trained again
    log = (place / 'race' / 'kd_seed0' / 'train.log').read_text()
    # From the iteration at which it was told to leave, or the end of the epoch before.
    (resumed,) = re.findall(r'resumed epoch: 1, iter: (\d+)', log)
    assert int(resumed) >= 18


def test_result(place, interrupted):
    folder = place / 'race'
    result = json.loads((folder / 'race.json').read_text())
    assert (result['metric'], result['not_the_same']) == ('accuracy/top1', [])
    alone, kd = result['results']
    assert (alone['name'], kd['name'], alone['gain']) == ('alone', 'kd', None)
    for model in (alone, kd):
        assert model['seeds'] == [0]
        ((steps, values),) = model['curves']
        # An interruption between the end of an epoch and its validation leaves a gap in the curve.
        assert (steps[-1], values[-1]) == (2, model['values'][0])
        assert model['mean'] == pytest.approx(statistics.mean(model['values']))
        assert 0 < model['seconds_per_iter'] < 30
        assert 100 < model['resident_memory_mb'] < 20000
        assert model['extra_parameters'] == 0
    assert kd['gain'] == pytest.approx(kd['values'][0] - alone['values'][0])
    table = (folder / 'race.md').read_text()
    assert re.search(rf'\| kd +\| {kd["mean"]:.1f} +\| [+-]\d', table)
    assert table.strip() in interrupted[2]
    picture = cv2.imread(str(folder / 'race.png'))
    assert picture.std() > 10


def test_another_race_in_the_same_folder_is_refused(run_tool, place, interrupted):
    done = race(run_tool, place, '--methods', 'kd', '--seeds', '1', '--epochs', '3', '--work-dir', 'race', check=False)
    assert done.returncode == 1
    assert "'race' holds a race whose alone_seed0 has another config" in done.stdout


def test_a_run_that_fails_does_not_end_the_others(run_tool, place, interrupted):
    """Configs given one by one; the second one's data breaks while it trains."""
    base = f"_base_ = '{ROOT}/configs/quickstart/vit_digits.py'\n"
    (place / 'plain.py').write_text(base)
    (place / 'broken.py').write_text(base + "train_dataloader = dict(collate_fn=dict(type='no_such_function'))\n")
    done = run_tool(
        *('compare.py', 'broken.py', 'plain.py', '--seeds', '1', '--epochs', '1', '--work-dir', 'mixed'),
        *('--jobs', '2', '--cfg-options', 'train_dataloader.dataset.indices=128'),
        cwd=place,
        check=False,
    )
    assert done.returncode == 1
    assert 'NOT THE SAME FOR ALL, so the race is not fair in it: plain: train_dataloader' in done.stdout
    assert 'broken, seed 0: FAILED (1)' in done.stdout
    assert 'the first argument must be callable' in done.stdout  # the end of its log
    assert re.search(r'\| broken +\| no finished run', done.stdout)
    assert re.search(r'\| plain +\| \d', done.stdout)
    assert '1 of 2 runs failed: broken, seed 0.' in done.stdout
    assert not json.loads((place / 'mixed' / 'race.json').read_text())['results'][0]['values']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'kdd'], "--methods: there is no method 'kdd'. There are: cc, crd, dist"),
        (['--seeds', '0'], '--seeds is at least 1, received 0'),
        (['other.py', '--methods', 'kd'], '--methods takes the config of one pair, received 2'),
    ],
)
def test_bad_arguments(run_tool, tmp_path, arguments, message):
    done = race(run_tool, tmp_path, *arguments, check=False)
    assert done.returncode == 2
    assert message in done.stdout


def test_what_cannot_be_built_is_told_before_anything_is_trained(run_tool, tmp_path):
    done = race(run_tool, tmp_path, '--methods', 'kd', '--seeds', '1', '--work-dir', 'race', check=False)
    assert done.returncode == 1
    assert 'kd cannot be built, so nothing was started. Checkpoint' in done.stdout
    assert not (tmp_path / 'race').exists()
