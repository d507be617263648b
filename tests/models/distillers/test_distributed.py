# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Two real processes (gloo) with different data."""

import copy

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import distributed as dist


def rank_batch(rank, size=6):
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(100 + rank)
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return dict(inputs=images, data_samples=[DataSample().set_gt_label((rank + i) % 10) for i in range(size)])


def gradients_alone(distiller, rank):
    """The gradients of one process's own batch, without DDP."""
    model = copy.deepcopy(distiller).train()
    total, _ = model.parse_losses(model._run_forward(model.data_preprocessor(rank_batch(rank), True), mode='loss'))
    total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def worker(rank, world, config, tolerance):
    """What each process does; an assertion that fails ends it with an error."""
    torch.manual_seed(0)
    distiller = MODELS.build(torch.load(config, weights_only=False))
    expected = [gradients_alone(distiller, r) for r in range(world)]

    wrapped = MMDistributedDataParallel(distiller, device_ids=None, broadcast_buffers=False)
    communicated = sum(parameter.numel() for parameter in wrapped.parameters())
    assert communicated == sum(p.numel() for p in (*distiller.student.parameters(), *distiller.terms.parameters()))
    taught = copy.deepcopy(distiller.teacher.model.state_dict())
    seen = {}

    class KeepGradients(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({name: p.grad.clone() for name, p in distiller.named_parameters()})
            return super().step(closure)

    optimizer = OptimWrapper(KeepGradients(wrapped.parameters(), lr=0.1))
    wrapped.train()
    # A second and third step fail if the first left a parameter without gradient (find_unused_parameters is off).
    for step in range(3):
        log = wrapped.train_step(rank_batch(rank), optimizer)
        if step == 0:
            for name, gradient in seen.items():
                mean = sum(gradients[name] for gradients in expected) / world
                torch.testing.assert_close(
                    gradient, mean, rtol=1e-4, atol=tolerance, msg=lambda text, name=name: f'{name}: {text}'
                )
            assert any(not torch.allclose(expected[0][name], expected[1][name]) for name in seen)
    assert torch.isfinite(log['loss_rsd'])
    assert all(torch.equal(value, taught[key]) for key, value in distiller.teacher.model.state_dict().items())

    weights = torch.cat([p.detach().flatten() for p in distiller.parameters()])
    gathered = [torch.empty_like(weights) for _ in range(world)]
    dist.all_gather(gathered, weights)
    assert all(torch.equal(weights, other) for other in gathered)


FAST = dict(channels_last=True, compile=dict(backend='eager'))


@pytest.mark.parametrize('options', [{}, FAST], ids=['plain', 'fast'])
def test_gradients_are_the_mean_of_the_processes_own(cnn, swin, save_weights, tmp_path, run_ranks, options):
    config = tmp_path / 'config.pkl'
    teacher = dict(swin(), checkpoint=save_weights(swin()))
    if options:
        teacher.update(options, precision='bfloat16')
    torch.save(dict(type='RSDDistiller', student=cnn(), teacher=teacher, **options), config)
    run_ranks(worker, 2, str(config), 1e-5 if options else 1e-6)
