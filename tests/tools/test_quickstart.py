# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The README's first command, at reduced size, and at full size when asked for."""

import json
import re
import statistics

import cv2
import pytest


def test_prints_a_table_and_writes_a_summary_and_a_picture(call_tool, tmp_path):
    out = call_tool('quickstart.py', '--seeds', '2', '--epochs', '1', cwd=tmp_path).stdout
    summary = json.loads((tmp_path / 'work_dirs/quickstart/summary.json').read_text())
    assert set(summary) == {'teacher', 'alone', 'rsd', 'seconds'}
    assert set(summary['teacher']) == {'name', 'top1'}
    assert len(summary['alone']) == len(summary['rsd']) == 2
    for value in (*summary['alone'], *summary['rsd'], summary['teacher']['top1']):
        assert 0 <= value <= 100
    assert summary['seconds'] > 0
    for label in ('teacher: ResNet-18', 'student alone', 'student with RSD'):
        assert re.search(rf'\| {label}.*\d+\.\d', out)
    picture = cv2.imread(str(tmp_path / 'work_dirs/quickstart/summary.png'))
    assert picture.shape[0] > 300
    assert picture.std() > 10


def test_bad_number_of_seeds(call_tool, tmp_path):
    done = call_tool('quickstart.py', '--seeds', '0', cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert '--seeds: expected a positive integer, received 0' in done.stdout


@pytest.mark.slow
def test_rsd_beats_the_student_alone_by_more_than_the_spread(run_tool, tmp_path):
    run_tool('quickstart.py', '--seeds', '3', cwd=tmp_path, timeout=1200, env=dict(OMP_NUM_THREADS='2'))
    summary = json.loads((tmp_path / 'work_dirs/quickstart/summary.json').read_text())
    gain = statistics.mean(summary['rsd']) - statistics.mean(summary['alone'])
    assert gain > statistics.stdev(summary['rsd']) + statistics.stdev(summary['alone'])
    assert min(summary['rsd']) > max(summary['alone'])
