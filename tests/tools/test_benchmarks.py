# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The benchmarks at their smallest: that they run and what they count. Times are not judged."""

import json

import pytest
import torch

from benchmarks.timing import measure, peak_memory

PAIR = 'configs/quickstart/resnet_to_vit_digits.py'
TEACHER = "teacher's forward"


@pytest.fixture
def rows(call_tool, tmp_path):
    """Run a benchmark; returns its rows, all of which it has printed."""

    def rows_of(tool, *arguments):
        out = tmp_path / 'folder' / 'out.json'
        printed = call_tool(tool, *arguments, '--quick', '--rounds', 1, '--device', 'cpu', '-o', out).stdout
        written = json.loads(out.read_text())
        assert written['machine']['torch'] == torch.__version__
        assert sum(line.startswith('| ') for line in printed.splitlines()) == len(written['rows']) + 2
        return written['rows']

    return rows_of


def test_loss(rows):
    found = rows('benchmarks/loss.py', '--shapes', '8x32', '32x8')
    assert [(row['batch'], row['dim']) for row in found] == [(8, 32), (32, 8)]
    for row in found:
        assert min(row[f'{name}, ms'] for name in ('masked D x D', 'D x D', 'B x B', 'RSDLoss')) > 0
        assert 1 <= row['memory_units'] < 20


def test_step(rows):
    found = {row['step']: row for row in rows('benchmarks/step.py', '--options', 'teacher in bfloat16')}
    assert list(found) == ['plain student', 'validation', TEACHER, 'distilled', 'teacher in bfloat16']
    assert found['plain student']['over_plain'] == 1
    for name, row in found.items():
        assert row['batch'] == 16
        assert min(row['ms'], row['peak_mb']) > 0
        assert (row['over_sum'] is None) == (name in ('plain student', 'validation', TEACHER))


def test_profile_of_a_step(rows):
    found = {row['part']: row for row in rows('benchmarks/step.py', '--profile', '--options', 'fused optimizer')}
    *parts, whole = found
    assert whole == 'whole step'
    for name in ('plain + teacher apart, ms', 'distilled, ms', 'fused optimizer, ms'):
        # One round, so the medians are of the same step.
        assert sum(found[part][name] for part in parts) == pytest.approx(found[whole][name])
        missing = {part for part in parts if found[part][name] == 0}
        assert missing == ({'terms forward', 'terms backward'} if 'plain' in name else set())


def test_dataloader(rows):
    found = rows('benchmarks/dataloader.py', '--cores', 4)
    assert [row['workers'] for row in found][-1] == 1
    for row in found:
        assert row['inputs'] == 'torch.uint8'
        assert row['images_per_second'] > 0
        assert (row['extrapolated'] is None) == (row['workers'] > 0)


def test_cost(rows):
    found = {row['what']: row for row in rows('analysis/cost.py', PAIR, '--methods', 'kd', 'crd', '--batch', 5)}
    assert found['training, resnet_to_vit_digits']['params'] == 64 * 128 + 2 * 128 + 128 * 128  # the projector
    assert found['training, kd']['params'] == 0
    assert found['training, crd']['params'] == 64 * 128 + 128 + 128 * 128 + 128  # two projectors
    assert found['training the student alone']['over_alone'] == 1
    assert found['teacher']['flops'] > found['student']['flops'] > 0
    assert {row['batch'] for row in found.values()} == {5}


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('benchmarks/loss.py', ['--shapes', '8'], '--shapes: a shape is BxD, such as 128x768; received 8.'),
        ('benchmarks/loss.py', ['--rounds', '0'], '--rounds: expected a positive integer, received 0'),
        ('benchmarks/step.py', ['--options', 'faster'], "--options: invalid choice: 'faster' (choose from"),
        ('benchmarks/step.py', ['configs/quickstart/vit_digits.py'], "vit_digits.py' is not a distillation"),
        ('analysis/cost.py', ['configs/quickstart/vit_digits.py'], "vit_digits.py' is not a distillation"),
        ('analysis/cost.py', [PAIR, '--methods', 'kdd'], "--methods: invalid choice: 'kdd' (choose from"),
    ],
)
def test_bad_arguments(call_tool, tool, arguments, message):
    done = call_tool(tool, *arguments, check=False)
    assert done.returncode
    assert message in done.stdout


def test_measures_side_by_side():
    order = []
    found = measure({name: lambda name=name: order.append(name) for name in 'ab'}, rounds=2, least=0)
    assert ''.join(order) == 'aabb' * 2  # Each measured call follows one to warm up.
    assert set(found) == {'a', 'b'}
    assert min(found.values()) > 0


def test_measures_on_the_threads_that_are_set():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = set()
        measure(dict(a=lambda: seen.add(torch.get_num_threads())), rounds=1, least=0)
        assert seen == {2}
    finally:
        torch.set_num_threads(threads)


def test_peak_memory_counts_what_lives_at_the_same_time():
    def call():
        for _ in range(3):
            a = torch.empty(1000, 1000)
            del a
        return torch.empty(500, 1000), torch.empty(500, 1000)

    assert 4e6 <= peak_memory(call) < 5e6
