# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS
from torch import nn

from rsd_mm import RSDProjector, rsd_loss


def test_structure_and_parameters():
    projector = MODELS.build(dict(type='RSDProjector', in_channels=512, out_channels=768))
    assert isinstance(projector, RSDProjector)
    kinds = [type(layer) for layer in projector.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Linear]
    first, norm, _, last = projector.layers
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (512, 1024, 1024, 768)
    assert first.bias is None
    assert last.bias is None
    # The linear layers of 512 -> 768 hold 1.31 M weights, as counted of the authors' release.
    assert first.weight.numel() + last.weight.numel() == 512 * 1024 + 1024 * 768 == 1_310_720
    assert norm.num_features == 1024


def test_initialization():
    projector = RSDProjector(256, 256)
    for layer in (projector.layers[0], projector.layers[3]):
        assert abs(layer.weight.std().item() - 0.02) < 5e-4
        assert abs(layer.weight.mean().item()) < 5e-4
    # mmengine's initialization leaves it as it is.
    before = projector.layers[0].weight.clone()
    projector.init_weights()
    assert torch.equal(before, projector.layers[0].weight)


def test_init_cfg_has_an_effect():
    projector = RSDProjector(8, 8, init_cfg=dict(type='Constant', layer='Linear', val=0.5))
    projector.init_weights()
    assert (projector.layers[0].weight == 0.5).all()


@pytest.mark.parametrize(('expansion', 'hidden'), [(1, 10), (2, 20), (4, 40), (0.5, 5)])
def test_expansion(expansion, hidden):
    assert RSDProjector(10, 6, expansion).layers[0].out_features == hidden


def test_forward_takes_a_tensor_or_a_tuple_of_stages():
    projector = RSDProjector(6, 9).eval()
    x = torch.randn(4, 6)
    out = projector(x)
    assert out.shape == (4, 9)
    expected = projector.layers[3](nn.functional.gelu(projector.layers[1](x @ projector.layers[0].weight.T)))
    torch.testing.assert_close(out, expected)
    (stage,) = projector((torch.randn(4, 3, 2, 2), x))
    assert torch.equal(stage, out)


def test_one_sample_is_fine_in_evaluation_only():
    projector = RSDProjector(6, 9)
    assert projector.eval()(torch.randn(1, 6)).shape == (1, 9)
    with pytest.raises(ValueError, match='at least 2 samples a step; received 1.*drop_last=True'):
        projector.train()(torch.randn(1, 6))


@pytest.mark.parametrize('expansion', [0, -1, 0.01, float('nan')])
def test_bad_expansion(expansion):
    with pytest.raises(ValueError, match=f'received {expansion} with in_channels=8'):
        RSDProjector(8, 8, expansion)


@pytest.mark.parametrize('option', ['in_channels', 'out_channels'])
def test_bad_width(option):
    with pytest.raises(ValueError, match=f'{option} must be a positive integer, received 0'):
        RSDProjector(**{**dict(in_channels=8, out_channels=8), option: 0})


@pytest.mark.parametrize('shape', [(4, 7), (4, 6, 2), (6,)])
def test_bad_input(shape):
    with pytest.raises(ValueError, match=re.escape(f'of shape (B, 6), received {shape}')):
        RSDProjector(6, 9)(torch.zeros(shape))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    batch=st.integers(2, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    exponent=st.integers(-30, 30),
    constant=st.booleans(),
)
def test_any_finite_embedding_gives_a_finite_loss_and_gradients(batch, width, seed, exponent, constant):
    """Through the projector and RSD's loss. Its BatchNorm squares: where that overflows it gives zeros, not NaN."""
    torch.manual_seed(seed)
    x = torch.randn(batch, width) * 10.0**exponent
    if constant:
        x[:, 0] = x[0, 0]
    x.requires_grad_()
    projector = RSDProjector(width, 5)
    projected = projector(x)
    loss = rsd_loss(projected, torch.randn(batch, 5))
    loss.backward()
    assert torch.isfinite(projected).all()
    assert torch.isfinite(loss)
    for gradient in (x.grad, *(parameter.grad for parameter in projector.parameters())):
        assert torch.isfinite(gradient).all()
