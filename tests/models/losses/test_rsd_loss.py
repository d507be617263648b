# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS
from mmengine.utils import digit_version

from benchmarks.timing import peak_memory
from rsd_mm import RSDLoss, rsd_loss, rsd_loss_parts
from rsd_mm.models.losses import standardize

module = sys.modules['rsd_mm.models.losses.cross_correlation']

# On a CPU torch autocasts to float16 from 2.3 on.
AUTOCAST = [torch.bfloat16] + [torch.float16] * (digit_version(torch.__version__) >= digit_version('2.3'))
SHAPES = [(2, 5), (8, 8), (16, 48), (48, 16), (7, 1), (24, 64), (64, 24)]


def reference(s, t, kappa=0.01, eps=1e-5):
    """The formula, entry by entry of the D x D matrix, in float64, from the paper's equations."""
    s, t = s.double(), t.double()
    batch, dim = s.shape

    def normalized(x):
        columns = []
        for i in range(dim):
            column = x[:, i]
            mean = column.sum() / batch
            variance = ((column - mean) ** 2).sum() / batch
            columns.append((column - mean) / (variance.sqrt() + eps))
        return columns

    a, b = normalized(s), normalized(t)
    invariance = decorrelation = torch.zeros((), dtype=torch.float64)
    for i in range(dim):
        for j in range(dim):
            p = (b[i] * a[j]).sum() / batch
            if i == j:
                invariance = invariance + (p - 1) ** 2
            else:
                decorrelation = decorrelation + p**2
    return invariance, decorrelation, invariance + kappa * decorrelation


def value_and_gradient(function, s, t):
    s = s.detach().clone().requires_grad_()
    value = function(s, t)
    (gradient,) = torch.autograd.grad(value, s)
    return value.detach(), gradient


def features(batch, dim, dtype=torch.float64, seed=0):
    """Correlated features with differing scales and means."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    s = 0.5 * t + torch.randn(batch, dim, generator=generator, dtype=torch.float64)
    scale = torch.rand(dim, generator=generator, dtype=torch.float64) * 5 + 0.1
    return (s * scale + 3).to(dtype), (t / scale - 1).to(dtype)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_matches_the_float64_reference(shape, dtype, tolerance):
    s, t = features(*shape, dtype)
    expected, expected_gradient = value_and_gradient(lambda s, t: reference(s, t)[2], s.double(), t)
    value, gradient = value_and_gradient(rsd_loss, s, t)
    assert value.dtype == dtype
    assert abs(value.double() / expected - 1) < tolerance
    size = expected_gradient.norm()
    if len(s) == 2:
        # Standardized, two samples are +-1 whatever their values: the gradient is what eps leaves of terms that
        # cancel, so its error is measured against those.
        size = (expected / s.double().std(dim=0)).norm()
    assert (gradient.double() - expected_gradient).norm() < tolerance * size


def test_known_value():
    # Two perfectly correlated columns that equal each other: P is all ones.
    s = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    invariance, decorrelation = rsd_loss_parts(s, s, eps=1e-12)
    torch.testing.assert_close(invariance, torch.zeros_like(invariance), atol=1e-9, rtol=0)
    torch.testing.assert_close(decorrelation, torch.full_like(decorrelation, 2.0))
    # A student that is the teacher's negative: the diagonal is -1, each entry counts 4.
    torch.testing.assert_close(rsd_loss(-s, s, kappa=0.5, eps=1e-12), torch.full_like(invariance, 2 * 4 + 0.5 * 2))


@pytest.mark.parametrize('shape', SHAPES)
def test_parts_match_the_reference(shape):
    s, t = features(*shape)
    invariance, decorrelation, _ = reference(s, t)
    parts = rsd_loss_parts(s, t)
    torch.testing.assert_close(parts[0], invariance, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts[1], decorrelation, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('shape', [(6, 10), (10, 6), (30, 31)])
def test_both_forms_agree(shape, monkeypatch):
    s, t = features(*shape)
    results = []
    for batch_form in (True, False):
        monkeypatch.setattr(module, '_batch_form_is_cheaper', lambda batch, dim, form=batch_form: form)
        results.append(value_and_gradient(rsd_loss, s, t))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


def test_the_large_matrix_is_not_built_for_a_small_batch():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    for batch, dim in ((16, 512), (512, 16)):
        sizes.clear()
        s, t = torch.randn(batch, dim, requires_grad=True), torch.randn(batch, dim)
        with Watch():
            rsd_loss(s, t).backward()
        assert sizes
        assert max(sizes) == batch * dim


@pytest.mark.parametrize('shape', [(5, 9), (12, 4)])
def test_gradcheck(shape):
    s, t = features(*shape)
    assert torch.autograd.gradcheck(lambda s: rsd_loss(s, t), s.requires_grad_())


@pytest.mark.parametrize('shape', [(16, 40), (40, 16)])
def test_invariances(shape):
    s, t = features(*shape)
    expected = rsd_loss(s, t, eps=1e-12)
    generator = torch.Generator().manual_seed(1)
    scale = torch.rand(shape[1], generator=generator, dtype=s.dtype) + 0.5
    shift = torch.randn(shape[1], generator=generator, dtype=s.dtype)
    order = torch.randperm(shape[0], generator=generator)
    torch.testing.assert_close(rsd_loss(s * scale + shift, t, eps=1e-12), expected)
    torch.testing.assert_close(rsd_loss(s, t * scale + shift, eps=1e-12), expected)
    torch.testing.assert_close(rsd_loss(s[order], t[order], eps=1e-12), expected)
    # The order of the student's features matters: the diagonal pairs them with the teacher's.
    assert not torch.allclose(rsd_loss(s.flip(1), t), expected, rtol=1e-3)


def test_limits_of_kappa():
    s, t = features(16, 24)
    invariance, decorrelation = rsd_loss_parts(s, t)
    torch.testing.assert_close(rsd_loss(s, t, kappa=0.0), invariance)
    torch.testing.assert_close(rsd_loss(s, t, kappa=1e9) / 1e9, decorrelation, rtol=1e-6, atol=0)
    assert decorrelation > 0


def test_eps_changes_the_value():
    s, t = features(16, 24)
    assert abs(rsd_loss(s, t, eps=0.5) - rsd_loss(s, t)) > 0.1


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [(16, 40), (40, 16)])
def test_half_inputs_are_computed_in_float32(dtype, shape):
    s, t = (x.to(dtype) for x in features(*shape))
    value, gradient = value_and_gradient(rsd_loss, s, t)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    expected = reference(s.float(), t.float())[2]
    assert abs(value.double() / expected - 1) < 1e-5


@pytest.mark.parametrize('dtype', AUTOCAST)
def test_autocast_does_not_lower_the_precision(dtype):
    s, t = features(16, 40, torch.float32)
    expected, expected_gradient = value_and_gradient(rsd_loss, s, t)
    s.requires_grad_()
    with torch.autocast('cpu', dtype=dtype):
        value = rsd_loss(s, t)
    (gradient,) = torch.autograd.grad(value, s)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('constant', [0.0, 0.1, 1000.0, 60000.0])
def test_constant_features_are_finite_and_count_as_uncorrelated(dtype, constant):
    s, t = features(12, 6, dtype)
    s[:, 2] = constant
    t[:, 4] = constant
    value, gradient = value_and_gradient(rsd_loss, s, t)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert abs(value.double() / reference(s, t)[2] - 1) < 1e-5
    collapsed = torch.full_like(s, constant)
    torch.testing.assert_close(rsd_loss(collapsed, collapsed), torch.tensor(6.0))


@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1e18, 1e30])
def test_extreme_scales_are_finite(scale):
    s, t = features(12, 20, torch.float32)
    value, gradient = value_and_gradient(rsd_loss, s * scale, t * scale)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    if scale > 1:
        torch.testing.assert_close(value, rsd_loss(s, t, eps=1e-12), rtol=1e-4, atol=0)


def test_teacher_gets_no_gradient_and_inputs_stay_as_they_are():
    s, t = (x.requires_grad_() for x in features(8, 12))
    before = s.detach().clone(), t.detach().clone()
    first = rsd_loss(s, t)
    second = rsd_loss(s, t)
    first.backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0
    assert torch.equal(s.detach(), before[0])
    assert torch.equal(t.detach(), before[1])
    assert torch.equal(first, second)


def test_standardize_uses_the_biased_deviation():
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(standardize(x, eps=1.0), torch.tensor([[-0.5], [0.5]], dtype=torch.float64))


class TestModule:
    def test_is_registered_and_weighted(self):
        loss = MODELS.build(dict(type='RSDLoss'))
        assert isinstance(loss, RSDLoss)
        assert (loss.loss_weight, loss.kappa, loss.eps) == (0.1, 0.01, 1e-5)
        s, t = features(8, 12)
        torch.testing.assert_close(loss(s, t), 0.1 * rsd_loss(s, t))
        other = RSDLoss(loss_weight=2.0, kappa=0.3, eps=0.1)
        torch.testing.assert_close(other(s_feature=s, t_feature=t), 2 * rsd_loss(s, t, kappa=0.3, eps=0.1))

    def test_parts_are_unweighted_and_detached(self):
        s, t = features(8, 12)
        loss, parts = RSDLoss(loss_weight=3.0)(s.requires_grad_(), t, return_parts=True)
        assert loss.requires_grad
        assert not any(part.requires_grad for part in parts.values())
        expected = rsd_loss_parts(s, t)
        torch.testing.assert_close(parts['invariance'], expected[0].detach())
        torch.testing.assert_close(parts['decorrelation'], expected[1].detach())
        torch.testing.assert_close(loss, 3 * (expected[0] + 0.01 * expected[1]))

    def test_has_no_state(self):
        assert not RSDLoss().state_dict()

    @pytest.mark.parametrize('weight', [-0.1, float('inf'), float('nan')])
    def test_bad_weight(self, weight):
        with pytest.raises(ValueError, match=f'loss_weight must be a number >= 0, received {weight}'):
            RSDLoss(loss_weight=weight)


class TestBadInput:
    @pytest.mark.parametrize('shapes', [((4, 3), (4, 5)), ((4, 3), (5, 3)), ((4, 3, 2), (4, 3, 2)), ((4,), (4,))])
    def test_shapes(self, shapes):
        s, t = (torch.zeros(shape) for shape in shapes)
        message = f'received {shapes[0]} of the student and {shapes[1]} of the teacher'
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            rsd_loss(s, t)
        assert 'RSDProjector' in str(error.value)

    def test_one_sample(self):
        with pytest.raises(ValueError, match='at least 2 samples a step; received 1.*drop_last=True'):
            rsd_loss(torch.zeros(1, 3), torch.zeros(1, 3))

    @pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
    @pytest.mark.parametrize('side', ['student', 'teacher'])
    def test_non_finite_features_are_passed_on_to_the_health_hook(self, value, side):
        s, t = features(6, 4, torch.float32)
        (s if side == 'student' else t)[2, 1] = value
        assert torch.isnan(rsd_loss(s, t))

    @pytest.mark.parametrize('kappa', [-0.01, float('nan'), float('inf')])
    def test_kappa(self, kappa):
        message = f'must be a number >= 0, received {kappa}. The paper uses 0.01'
        with pytest.raises(ValueError, match=re.escape(message)):
            RSDLoss(kappa=kappa)
        with pytest.raises(ValueError, match=re.escape(message)):
            rsd_loss(torch.zeros(2, 2), torch.zeros(2, 2), kappa=kappa)

    @pytest.mark.parametrize('eps', [0, -1e-5, float('nan')])
    def test_eps(self, eps):
        message = f'must be a number > 0, received {eps}'
        with pytest.raises(ValueError, match=re.escape(message)):
            RSDLoss(eps=eps)
        with pytest.raises(ValueError, match=re.escape(message)):
            rsd_loss(torch.zeros(2, 2), torch.zeros(2, 2), eps=eps)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    batch=st.integers(2, 9),
    dim=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    exponents=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    shift=st.sampled_from([0.0, 1.0, 1e6]),
    constant=st.booleans(),
)
def test_any_finite_input_gives_a_finite_value_and_gradient(batch, dim, seed, exponents, shift, constant):
    generator = torch.Generator().manual_seed(seed)
    s, t = (
        (torch.randn(batch, dim, generator=generator) + shift) * 10.0**exponent / (shift + 1) for exponent in exponents
    )
    if constant:
        s[:, 0] = s[0, 0]
        t[:, -1] = t[0, -1]
    value, gradient = value_and_gradient(rsd_loss, s, t)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_second_derivatives_are_refused():
    """The gradient is written out, so that of the gradient would be wrong."""
    s, t = features(6, 10)
    (gradient,) = torch.autograd.grad(rsd_loss(s.requires_grad_(), t), s, create_graph=True)
    with pytest.raises(RuntimeError, match='does not require grad'):
        gradient.sum().backward()


@pytest.mark.parametrize('shape', [(64, 512), (512, 64), (128, 128)])
def test_peak_memory_is_that_of_a_few_features(shape):
    s, t = features(*shape, torch.float32)
    s.requires_grad_()
    numbers = shape[0] * shape[1] + min(shape) ** 2
    assert peak_memory(lambda: rsd_loss(s, t).backward()) < 6 * 4 * numbers
