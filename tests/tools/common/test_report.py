# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import cv2
import pytest

from common.report import draw_accuracies, markdown_table, mean_and_spread, spread


def test_spread_is_the_standard_deviation_of_a_sample():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert spread([5.0]) == 0.0
    assert mean_and_spread([1.0, 2.0, 3.0]) == '2.0 +- 1.0'
    assert mean_and_spread([5.04]) == '5.0'


def test_markdown_table():
    assert markdown_table(['a', 'b'], [['long', '1']]) == '| a    | b |\n| ---- | - |\n| long | 1 |'


@pytest.mark.parametrize('models', [2, 6])
def test_picture(tmp_path, models):
    curves = {f'model {i}': [([1, 2], [50.0 + i, 60.0 + i]), ([1, 2], [40.0, 61.0])] for i in range(models)}
    draw_accuracies(curves, str(tmp_path / 'race.png'), 'A race', teacher=70.0)
    picture = cv2.imread(str(tmp_path / 'race.png'))
    assert picture.shape[0] > 300
    assert picture.std() > 10
