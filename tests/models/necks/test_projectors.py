# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rsd_mm.models.necks.projectors import HintRegressor, LinearProjector, OFAProjector, PatchMerging
from rsd_mm.models.taps import Form

MAP, TOKENS = Form('NCHW', 8, (16, 16)), Form('NLC', 8, (14, 14))


def ofa(stage, form=MAP, **options):
    widths = dict(in_channels=8, out_channels=5, student_width=12, teacher_width=20)
    return MODELS.build(dict(type='OFAProjector', stage=stage, form=form, **{**widths, **options}))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def separable(a, b):
    """Depthwise 3 x 3 and pointwise, twice, each with BatchNorm."""
    return 9 * a + a * a + 2 * a + 9 * a + a * b + 2 * b


# Widths double, and the last block ends in the larger embedding width (20).
CONVOLUTIONS = {
    1: separable(8, 16) + separable(16, 32) + separable(32, 20),
    2: separable(8, 16) + separable(16, 20),
    3: separable(8, 20),
    4: 8 * 20 + 20,
}


@pytest.mark.parametrize('stage', CONVOLUTIONS)
def test_branch_of_a_feature_map(stage):
    branch = ofa(stage)
    assert parameters(branch) == CONVOLUTIONS[stage] + 20 * 5 + 5
    assert branch(torch.randn(3, 8, 16, 16)).shape == (3, 5)
    strides = [layer.stride[0] for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
    assert strides.count(2) == 4 - stage


@pytest.mark.parametrize(('stage', 'blocks'), [(1, 3), (2, 2), (3, 1), (4, 1)])
@pytest.mark.parametrize('prefix', [0, 1])
def test_branch_of_tokens(stage, blocks, prefix):
    # In a network of one resolution every stage has the embedding's width.
    branch = ofa(stage, TOKENS._replace(prefix=prefix), student_width=8)
    assert (len(branch.blocks), len(branch.merging)) == (blocks, 1)  # 14 x 14 to 7 x 7
    block = 4 * 8 * 8 + 8 + 2 * 4 * 8 * 8 + (4 * 8 + 8) + 2 * 2 * 8
    assert parameters(branch) == (4 * 8 * 8 + 2 * 4 * 8) + blocks * block + 8 * 5 + 5
    x = torch.randn(3, prefix + 196, 8)
    assert branch(x).shape == (3, 5)
    seen = []
    branch.blocks.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    value = branch(x)
    ((given, out),) = seen
    assert given.shape == (3, prefix + 49, 8)
    if prefix:
        assert torch.equal(given[:, 0], x[:, 0])  # the class token is left as it is
    torch.testing.assert_close(value, branch.head(out[:, 0] if prefix else out.mean(dim=1)))


def test_patches_are_merged_down_to_the_grid():
    assert [len(ofa(1, TOKENS._replace(grid=(g, g)), student_width=12).merging) for g in (56, 28, 14, 7, 4)] == [
        3,
        2,
        1,
        0,
        0,
    ]
    assert len(ofa(1, TOKENS, grid=3).merging) == 2
    branch = ofa(4, TOKENS._replace(grid=(4, 4)))  # nothing to merge, so a linear layer widens
    assert branch(torch.randn(2, 16, 8)).shape == (2, 5)


def test_merging_joins_four_neighbours():
    merging = PatchMerging(2, 3, activate=False)
    x = torch.randn(1, 2, 4, 6)
    out = merging(x)
    assert out.shape == (1, 3, 2, 3)
    four = torch.stack([x[0, c, 2 + i, 4 + j] for c in range(2) for i in range(2) for j in range(2)])
    torch.testing.assert_close(out[0, :, 1, 2], merging.reduction(merging.norm(four)))
    assert merging(torch.randn(1, 2, 5, 5)).shape == (1, 3, 3, 3)


def test_branches_start_as_in_the_release():
    branch = ofa(1, TOKENS, student_width=64, out_channels=100)
    branch.init_weights()
    assert float(branch.head.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not branch.head.bias.any()
    branch = ofa(1, student_width=64, out_channels=100)
    branch.init_weights()
    depthwise = branch.layers[0][0].weight
    assert float(depthwise.detach().std()) == pytest.approx((2 / 9 / depthwise.shape[0]) ** 0.5, rel=0.35)


def test_linear_projector_and_regressor():
    projector = LinearProjector(4, 6, bias=False)
    assert parameters(projector) == 24
    assert parameters(LinearProjector(4, 6)) == 30
    x = torch.randn(2, 4)
    torch.testing.assert_close(projector(x), x @ projector.layer.weight.T)
    regressor = HintRegressor(4, 6)
    assert parameters(regressor) == 24
    y = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(regressor(y)[:, :, 1, 2], y[:, :, 1, 2] @ regressor.layer.weight[:, :, 0, 0].T)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(stage=0), 'stage is 1, 2, 3 or 4, received 0'),
        (dict(form=None), 'it reads a stage of the student'),
        (dict(teacher_width=None), 'set student_width and teacher_width'),
        (dict(form=TOKENS, num_heads=5), 'num_heads=5 does not divide the width 12'),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ofa(**{**dict(stage=1), **options})


def test_is_registered():
    assert isinstance(ofa(1), OFAProjector)
