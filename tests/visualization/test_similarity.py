# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import itertools

import numpy as np
import pytest
import torch

from rsd_mm.models.taps import resolve_tap
from rsd_mm.visualization import MinibatchCKA, read_features, unbiased_hsic


def slow_hsic(k, l):  # noqa: E741
    """The U-statistic over all quadruples of different samples (Song et al., JMLR 2012, equation 3)."""
    n, total, count = len(k), 0.0, 0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
        count += 1
    return total / count


def kernels(n=7, width=3):
    features = [torch.randn(n, width, dtype=torch.float64) for _ in range(2)]
    return [x @ x.T for x in features]


def test_hsic_is_the_u_statistic():
    k, l = kernels()  # noqa: E741
    assert float(unbiased_hsic(k, l)) == pytest.approx(float(slow_hsic(k, l)), abs=1e-9)


def test_hsic_needs_four_samples():
    with pytest.raises(ValueError, match='at least 4 samples, received 3'):
        unbiased_hsic(*kernels(3))


def cka(*pairs):
    value = MinibatchCKA(['a'], ['b'])
    for a, b in pairs:
        value.update([a], [b])
    return value.compute()[0, 0]


def test_equal_up_to_rotation_scale_and_shift():
    x = torch.randn(64, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    assert cka((x, x)) == pytest.approx(1)
    assert cka((x, 3 * x @ rotation - 2)) == pytest.approx(1, abs=1e-5)


def test_unrelated_representations_have_none():
    """Also of few samples, where the usual estimate would be near 1."""
    batches = [(torch.randn(16, 50), torch.randn(16, 40)) for _ in range(50)]
    assert abs(cka(*batches)) < 0.05


def test_a_known_value():
    """Half of the variance is shared: the kernel of (x, y) against that of x."""
    x, y = torch.randn(4000, 1), torch.randn(4000, 1)
    assert cka((torch.cat([x, y], dim=1), x)) == pytest.approx(0.5**0.5, abs=0.03)


def test_what_does_not_vary_has_no_value():
    assert np.isnan(cka((torch.ones(8, 3), torch.randn(8, 3))))


def test_features_are_those_of_the_networks(make_distiller, batch):
    model = make_distiller().train()
    own = [resolve_tap(model.student, tap, 'student') for tap in ('stage1', 'embedding')]
    taught = [model.teacher.tap('embedding')]
    inputs, samples = batch(6)
    loader = [dict(inputs=list(inputs), data_samples=samples)] * 3
    read = list(read_features(model, loader, own, taught, 10))
    assert [len(labels) for *_, labels in read] == [6, 4]
    assert read[0][2].tolist() == [0, 1, 2, 3, 4, 5]
    assert read[1][0][1].shape == (4, 32)
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model.student.extract_feat(model.data_preprocessor(loader[0])['inputs'], stage='pre_logits')
    torch.testing.assert_close(read[0][0][1], expected)
    torch.testing.assert_close(read[1][1][0], read[0][1][0][:4])
