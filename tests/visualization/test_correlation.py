# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from rsd_mm import rsd_loss_parts
from rsd_mm.visualization import agreement, cross_correlation, draw_correlation, effective_rank


def test_cross_correlation_is_numpys():
    s, t = torch.randn(50, 6), torch.randn(50, 6)
    expected = np.corrcoef(t.T, s.T)[:6, 6:]
    np.testing.assert_allclose(cross_correlation(s, t), expected, atol=1e-4)


def test_agreement_is_what_the_loss_sees():
    s, t = torch.randn(50, 6), torch.randn(50, 6)
    matrix = cross_correlation(s, t)
    _, decorrelation = rsd_loss_parts(s, t)
    numbers = agreement(matrix)
    assert numbers['mean_diagonal'] == pytest.approx(float(matrix.diagonal().mean()))
    assert numbers['mean_square_off_diagonal'] * 30 == pytest.approx(float(decorrelation), rel=1e-5)
    assert agreement(torch.eye(4)) == dict(mean_diagonal=1.0, mean_square_off_diagonal=0.0)
    assert agreement(torch.ones(1, 1)) == dict(mean_diagonal=1.0, mean_square_off_diagonal=0.0)


def test_effective_rank():
    directions = torch.linalg.qr(torch.randn(64, 64))[0]
    directions = torch.linalg.qr(directions - directions.mean(dim=0))[0][:, :5]  # of mean zero
    assert effective_rank(directions @ torch.randn(5, 5).T.mul(0).add(torch.eye(5)) + 3) == pytest.approx(5, rel=1e-3)
    line = torch.randn(64, 1) @ torch.randn(1, 8)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(16, 8)) == 0
    assert 30 < effective_rank(torch.randn(500, 40)) < 40


def test_picture():
    picture = draw_correlation(torch.eye(16), 'epoch 1')
    assert picture.dtype == np.uint8
    assert picture.shape == (630, 720, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
