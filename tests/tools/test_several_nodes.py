# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Two "machines" on one: the environment variables of OpenMMLab's scripts."""

import os
import subprocess
import sys
from pathlib import Path

from rsd_mm.utils import read_checkpoint


def test_two_nodes(root, tmp_path, digits_weights, free_port):
    teacher = digits_weights('resnet_digits', tmp_path / 'teacher.pth')
    settings = ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=256', 'model.loss.sync=True']
    settings += [f'model.teacher.checkpoint={teacher}', 'train_dataloader.batch_size=32', 'randomness.seed=0']
    processes, port = [], free_port()
    for rank in range(2):
        env = {**os.environ, 'NNODES': '2', 'NODE_RANK': str(rank), 'PORT': port, 'MASTER_ADDR': '127.0.0.1'}
        env['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), env['PATH']])
        command = [root / 'tools/dist_train.sh', root / 'configs/quickstart/resnet_to_vit_digits.py', '1']
        command += ['--no-validate', '--work-dir', tmp_path / 'work', '--cfg-options', *settings]
        processes.append(
            subprocess.Popen(
                list(map(str, command)), cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]
    # 256 images, 32 a process, 2 processes.
    assert read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['meta']['iter'] == 4
    assert 'MMDistributedDataParallel' in outputs[0]
