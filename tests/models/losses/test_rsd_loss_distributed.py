# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Statistics over the batches of all processes: real processes (gloo), each with its own samples."""

import itertools
import sys

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rsd_mm import RSDLoss, RSDProjector, rsd_loss

#: Samples of each process, and the width: features are exchanged for the first, matrices for the second.
BATCHES = {2: [(16, 16), (16, 5)], 3: [(8, 8, 8), (9, 2, 6)]}
WIDTHS = [160, 12]


def make(dim):
    """A batch of each process, correlated, with another scale and mean for each, and a layer to train."""
    generator = torch.Generator().manual_seed(dim)
    layer = nn.Linear(10, dim).double()
    layer.load_state_dict(
        {key: torch.randn(value.shape, generator=generator).double() for key, value in layer.state_dict().items()}
    )

    def batch(rank, size):
        x = torch.randn(size, 10, generator=torch.Generator().manual_seed(rank)).double() * (rank + 1) + rank
        t = x @ torch.randn(10, dim, generator=torch.Generator().manual_seed(7)).double() + x.sin().sum(1, keepdim=True)
        t[:, 1] = 0.3  # a constant feature
        return x, t

    return layer, batch


def relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def compare(rank, world):
    for dtype, dim in itertools.product((torch.float64, torch.float32), WIDTHS):
        for sizes in BATCHES[world]:
            layer, batch = make(dim)
            layer.to(dtype)
            shards = [tuple(part.to(dtype) for part in batch(r, size)) for r, size in enumerate(sizes)]
            x, t = (torch.cat(parts) for parts in zip(*shards))
            expected = rsd_loss(layer(x), t)
            expected_gradient = torch.autograd.grad(expected, layer.weight)[0]

            wrapped = DistributedDataParallel(layer)
            loss = RSDLoss(loss_weight=1.0, sync=True)(wrapped(shards[rank][0]), shards[rank][1])
            loss.backward()
            errors = relative(loss.detach(), expected.detach()), relative(layer.weight.grad, expected_gradient)
            local = rsd_loss(layer(shards[rank][0]).detach(), shards[rank][1])
            assert relative(local, expected.detach()) > 1e-3  # or the test would show nothing
            print(f'{dtype} {world} processes {sizes} D={dim}: value {errors[0]:.1e}, gradient {errors[1]:.1e}')
            assert max(errors) < (1e-6 if dtype == torch.float32 else 1e-12), errors
    # A loss that is not finite in one process is so in all, and all stop.
    for dim in WIDTHS:
        features = torch.randn(4, dim)
        features[0, 0] = float('nan') if rank == 1 else 0.0
        assert torch.isnan(rsd_loss(features, torch.randn(4, dim), sync=True))
        assert torch.isnan(rsd_loss(features, torch.randn(4, dim))) == (rank == 1)


@pytest.mark.parametrize('world', [2, 3])
def test_value_and_gradient_are_those_of_the_whole_batch(run_ranks, world):
    print(run_ranks(compare, world)[0])


def test_both_ways_of_exchange_are_taken():
    fewer = sys.modules['rsd_mm.models.losses.cross_correlation']._gathering_is_cheaper
    assert all(fewer(sum(sizes), WIDTHS[0]) for every in BATCHES.values() for sizes in every)
    assert not any(fewer(sum(sizes), WIDTHS[1]) for every in BATCHES.values() for sizes in every)


def test_without_a_process_group_it_is_the_plain_loss():
    s, t = torch.randn(8, 12), torch.randn(8, 12)
    assert torch.equal(rsd_loss(s, t, sync=True), rsd_loss(s, t))
    projector = RSDProjector(12, 12)
    RSDLoss(sync=True)(projector(s), t).backward()
    assert projector.layers[0].weight.grad.abs().sum() > 0
