# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The benchmarks at their smallest: that they run, and that their columns agree. What they measure is not judged."""

import json
import logging
import runpy
import sys

import pytest
import torch

from benchmarks.timing import measure, peak_memory

PAIR = 'configs/quickstart/resnet_to_vit_digits.py'


@pytest.fixture
def run(root, monkeypatch, capsys):
    """Run a tool within this process, which saves its imports; returns what it prints."""

    def run_here(tool, *arguments):
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(root / 'tools' / tool), run_name='__main__')
        return capsys.readouterr().out

    yield run_here
    logging.disable(logging.NOTSET)


@pytest.fixture
def rows(run, tmp_path):
    """Run a benchmark; returns its rows, all of which it has printed."""

    def rows_of(tool, *arguments):
        out = tmp_path / 'folder' / 'out.json'
        said = run(tool, *arguments, '--quick', '--rounds', 1, '--device', 'cpu', '-o', out)
        written = json.loads(out.read_text())
        assert written['machine']['torch'] == torch.__version__
        assert sum(line.startswith('| ') for line in said.splitlines()) == len(written['rows']) + 2
        return written['rows']

    return rows_of


def test_loss(rows):
    found = rows('benchmarks/loss.py', '--shapes', '8x32', '32x8')
    assert [(row['batch'], row['dim']) for row in found] == [(8, 32), (32, 8)]
    for row in found:
        times = {name: row[f'{name}, ms'] for name in ('masked D x D', 'D x D', 'B x B', 'RSDLoss')}
        assert min(times.values()) > 0
        assert row['over_masked'] == pytest.approx(times['masked D x D'] / times['RSDLoss'])
        assert row['over_better'] == pytest.approx(min(times['D x D'], times['B x B']) / times['RSDLoss'])
        assert row['memory_units'] == pytest.approx(row['RSDLoss, MB'] * 2**20 / 4 / (8 * 32 + 8 * 8))
        assert 1 <= row['memory_units'] < 20


def test_step(rows):
    found = {row['step']: row for row in rows('benchmarks/step.py', '--options', 'teacher in bfloat16')}
    assert list(found) == ['plain student', 'validation', "teacher's forward", 'distilled', 'teacher in bfloat16']
    plain, teacher = found['plain student']['ms'], found["teacher's forward"]['ms']
    for name, row in found.items():
        assert row['over_plain'] == pytest.approx(row['ms'] / plain)
        assert row['images_per_second'] == pytest.approx(16e3 / row['ms'])
        assert row['peak_mb'] > 0
        if name not in ('plain student', 'validation', "teacher's forward"):
            assert row['over_sum'] == pytest.approx(row['ms'] / (plain + teacher))


def test_profile_of_a_step(rows):
    found = {row['part']: row for row in rows('benchmarks/step.py', '--profile', '--options', 'fused optimizer')}
    *parts, whole = found
    assert whole == 'whole step'
    for name in ('plain + teacher apart, ms', 'distilled, ms', 'fused optimizer, ms'):
        # One round, so the medians are of the same step.
        assert sum(found[part][name] for part in parts) == pytest.approx(found[whole][name])
        missing = {part for part in parts if found[part][name] == 0}
        assert missing == ({'terms forward', 'terms backward'} if 'plain' in name else set())
    assert sum(found[part]['share'] for part in parts) == pytest.approx(100)


def test_dataloader(rows):
    found = rows('benchmarks/dataloader.py', '--cores', 4)
    assert [row['workers'] for row in found][-1] == 1
    for row in found:
        assert row['inputs'] == 'torch.uint8'
        assert row['over_config'] == pytest.approx(row['images_per_second'] / found[0]['images_per_second'])
        assert row['extrapolated'] == (None if row['workers'] else pytest.approx(4 * row['images_per_second']))


def test_cost(rows, root):
    found = {row['what']: row for row in rows('analysis/cost.py', PAIR, '--methods', 'kd', '--batch', 5)}
    trained, kd = found['training, resnet_to_vit_digits'], found['training, kd']
    assert trained['params'] == 64 * 128 + 2 * 128 + 128 * 128  # the projector
    assert kd['params'] == 0
    alone = found['training the student alone']
    assert kd['over_alone'] == pytest.approx(kd['ms'] / alone['ms'])
    assert found['teacher']['flops'] > found['student']['flops'] > 0
    assert {row['batch'] for row in found.values()} == {5}


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('benchmarks/loss.py', ['--shapes', '8'], '--shapes: a shape is BxD, such as 128x768; received 8.'),
        ('benchmarks/step.py', ['--options', 'faster'], "--options: there is no 'faster'. There are: 'teacher in"),
        ('benchmarks/step.py', ['configs/quickstart/vit_digits.py'], "vit_digits.py' is not a distillation"),
        ('analysis/cost.py', ['configs/quickstart/vit_digits.py'], "vit_digits.py' is not a distillation"),
        ('analysis/cost.py', [PAIR, '--methods', 'kdd'], "--methods: there is no method 'kdd'. There are: cc, crd"),
    ],
)
def test_bad_arguments(run, capsys, tool, arguments, message):
    with pytest.raises(SystemExit) as ended:
        run(tool, *arguments)
    assert ended.value.code
    assert message in str(ended.value) + capsys.readouterr().err


def test_measures_side_by_side():
    order = []
    found = measure({name: lambda name=name: order.append(name) for name in 'ab'}, rounds=2, least=0)
    assert ''.join(order) == 'aaabbb' + 'abab'
    assert set(found) == {'a', 'b'}
    assert min(found.values()) > 0


def test_peak_memory_counts_what_lives_at_the_same_time():
    def call():
        for _ in range(3):
            a = torch.empty(1000, 1000)
            del a
        return torch.empty(500, 1000), torch.empty(500, 1000)

    assert 4e6 <= peak_memory(call) < 5e6
