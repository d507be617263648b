# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""MMPretrain's own tools with a config of ours, as its users run them."""

import pickle
import re
from pathlib import Path

import mmpretrain
import pytest
import torch

from rsd_mm.utils import read_checkpoint

TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
RSD = 'configs/quickstart/resnet_to_vit_digits.py'


@pytest.mark.stack
def test_train_resume_and_test(run_tool, call_tool, digits_weights, root, tmp_path):
    checkpoint = digits_weights('resnet_digits', tmp_path / 'teacher.pth')

    def options(epochs):
        changes = [f'model.teacher.checkpoint={checkpoint}', f'train_cfg.max_epochs={epochs}']
        changes += ['train_cfg.val_interval=1', 'train_dataloader.dataset.indices=128']
        return ['--cfg-options', *changes, *(f'{split}_dataloader.dataset.indices=100' for split in ('val', 'test'))]

    work = tmp_path / 'work'
    # In a process of its own, nothing but the config imports this package.
    command = [TOOLS / 'train.py', RSD, '--work-dir', work, '--auto-scale-lr', *options(1)]
    out = run_tool(*command, cwd=root).stdout
    assert 'loss_rsd:' in out
    first = read_checkpoint(work / 'epoch_1.pth')['state_dict']
    assert {key.split('.')[0] for key in first} == {'student', 'terms'}
    out = call_tool(TOOLS / 'train.py', RSD, '--work-dir', work, '--resume', *options(2)).stdout
    assert 'resumed epoch: 1, iter: 2' in out
    second = read_checkpoint(work / 'epoch_2.pth')
    assert second['meta']['iter'] == 4
    assert any(not torch.equal(first[key], value) for key, value in second['state_dict'].items())

    predictions = tmp_path / 'p.pkl'
    command = [TOOLS / 'test.py', RSD, work / 'epoch_2.pth', '--work-dir', tmp_path / 'test', '--out', predictions]
    tested = call_tool(*command, *options(1)).stdout
    accuracies = [re.findall(r'accuracy/top1: ([\d.]+)', text)[-1] for text in (out, tested)]
    assert accuracies[0] == accuracies[1]
    assert len(pickle.loads(predictions.read_bytes())) == 100
