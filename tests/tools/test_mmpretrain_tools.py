# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""MMPretrain's own tools with a config of ours, as its users run them."""

import pickle
import re
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config

from rsd_mm.utils import read_checkpoint

TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
RSD = 'configs/quickstart/resnet_to_vit_digits.py'


@pytest.fixture
def run(run_tool, root, tmp_path, save_weights):
    teacher = Config.fromfile(str(root / 'configs/quickstart/resnet_digits.py')).model
    checkpoint = save_weights(dict(teacher, _scope_='mmpretrain'))

    def tool(name, *arguments, epochs=1):
        options = [f'model.teacher.checkpoint={checkpoint}', f'train_cfg.max_epochs={epochs}']
        options += ['train_cfg.val_interval=1', 'train_dataloader.dataset.indices=128']
        options += [f'{split}_dataloader.dataset.indices=100' for split in ('val', 'test')]
        return run_tool(TOOLS / name, RSD, *arguments, '--cfg-options', *options, cwd=root).stdout

    return tool


@pytest.mark.stack
def test_train_resume_and_test(run, tmp_path):
    work = tmp_path / 'work'
    out = run('train.py', '--work-dir', work, '--auto-scale-lr')
    assert 'loss_rsd:' in out
    first = read_checkpoint(work / 'epoch_1.pth')['state_dict']
    assert {key.split('.')[0] for key in first} == {'student', 'terms'}
    out = run('train.py', '--work-dir', work, '--resume', epochs=2)
    assert 'resumed epoch: 1, iter: 2' in out
    second = read_checkpoint(work / 'epoch_2.pth')
    assert second['meta']['iter'] == 4
    assert any(not torch.equal(first[key], value) for key, value in second['state_dict'].items())

    predictions = tmp_path / 'p.pkl'
    tested = run('test.py', work / 'epoch_2.pth', '--work-dir', tmp_path / 'test', '--out', predictions)
    accuracies = [re.findall(r'accuracy/top1: ([\d.]+)', text)[-1] for text in (out, tested)]
    assert accuracies[0] == accuracies[1]
    assert len(pickle.loads(predictions.read_bytes())) == 100
