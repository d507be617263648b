# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The command lines, as a user types them, on digits: train, resume, test, several processes."""

import json
import os
import pickle
import re
import subprocess

import pytest
import torch

from rsd_mm.utils import read_checkpoint

FAST = ['train_dataloader.dataset.indices=192', 'val_dataloader.dataset.indices=100']
RSD = 'configs/quickstart/resnet_to_vit_digits.py'
ALONE = 'configs/quickstart/vit_digits.py'


@pytest.fixture(scope='module')
def teacher(place, call_tool):
    """A teacher trained for an epoch through tools/train.py."""
    command = ['train.py', 'configs/quickstart/resnet_digits.py', '--work-dir', place / 't', '--cfg-options', *FAST]
    call_tool(*command, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    return str(place / 't' / 'epoch_1.pth')


@pytest.fixture(scope='module')
def train(call_tool, teacher):
    """Train in this process, or as ``run`` says."""

    def run_training(work, *arguments, epochs=1, options=(), tool=('train.py', RSD), run=call_tool, **kwargs):
        settings = [f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=1', 'randomness.seed=0']
        settings += [f'model.teacher.checkpoint={teacher}', *FAST, *options]
        return run(*tool, '--work-dir', work, *arguments, '--cfg-options', *settings, **kwargs)

    return run_training


@pytest.fixture(scope='module')
def trained(train, place):
    """A work dir with one epoch of training, and what that printed."""
    done = train(place / 'trained', options=['default_hooks.logger.interval=1'])
    return place / 'trained', done.stdout


@pytest.mark.stack
def test_train_resume_and_test(train, trained, call_tool):
    work, out = trained
    for shown in ('loss_task:', 'loss_rsd:', 'rsd_invariance:', 'rsd_decorrelation:', 'accuracy/top1:'):
        assert shown in out
    first = read_checkpoint(work / 'epoch_1.pth')
    assert {'state_dict', 'optimizer', 'param_schedulers', 'message_hub', 'meta'} <= set(first)
    assert {key.split('.')[0] for key in first['state_dict']} == {'student', 'terms'}

    out = train(work, '--resume', epochs=2).stdout
    assert 'resumed epoch: 1, iter: 3' in out
    second = read_checkpoint(work / 'epoch_2.pth')
    assert second['meta']['iter'] == 6
    assert second['optimizer']['state'][0]['step'] == 6

    metrics = work / 'metrics.json'
    options = ['--work-dir', work, '--out', metrics, '--out-item', 'metrics']
    options += ['--cfg-options', 'test_dataloader.dataset.indices=100']
    call_tool('test.py', RSD, work / 'epoch_2.pth', *options)  # Its teacher's file is not there.
    tested = json.loads(metrics.read_text())['accuracy/top1']
    validated = [float(value) for value in re.findall(r'accuracy/top1: ([\d.]+)', out)]
    assert tested == pytest.approx(validated[-1], abs=1e-3)


def test_resume_from_a_file_and_predictions(train, trained, call_tool, tmp_path):
    checkpoint = trained[0] / 'epoch_1.pth'
    out = train(tmp_path / 'other', '--resume', checkpoint, epochs=2).stdout
    assert 'resumed epoch: 1, iter: 3' in out
    call_tool('test.py', RSD, checkpoint, '--work-dir', tmp_path / 'w', '--out', tmp_path / 'p.pkl')
    predictions = pickle.loads((tmp_path / 'p.pkl').read_bytes())
    assert len(predictions) == 597
    assert predictions[0]['pred_score'].shape == (10,)


def test_options_that_users_know(train, tmp_path):
    arguments = ['--no-validate', '--auto-scale-lr', '--no-pin-memory']
    out = train(tmp_path / 'work', *arguments, options=['train_dataloader.batch_size=32']).stdout
    assert 'accuracy/top1' not in out
    assert re.search(r'batch size of 64 and the current batch size is 32. Scaling the original LR by 0.5', out)


def test_average_of_weights(train, root, tmp_path):
    """EMAHook keeps an average of the student and its terms, and no teacher."""
    config = tmp_path / 'ema.py'
    config.write_text(f"_base_ = '{root / RSD}'\ncustom_hooks = [dict(type='EMAHook', momentum=0.5)]\n")
    train(tmp_path / 'work', tool=('train.py', config))
    checkpoint = read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')
    assert not any('teacher' in key for key in checkpoint['ema_state_dict'])
    key = 'student.head.layers.head.weight'
    assert not torch.equal(checkpoint['state_dict'][key], checkpoint['ema_state_dict'][f'module.{key}'])


@pytest.mark.stack
def test_two_processes_without_a_gpu(train, run_tool, free_port, root, tmp_path):
    # Threads of a process group that outlive it abort the process now and then while the interpreter ends.
    (tmp_path / 'sitecustomize.py').write_text(
        'import atexit, os\n'
        "if 'LOCAL_RANK' in os.environ:\n"
        "    count = lambda: len(os.listdir('/proc/self/task'))\n"
        # One write, since both processes write to one pipe.
        "    atexit.register(lambda: os.write(1, f'threads at the end: {count()}\\n'.encode()))\n"
    )
    path = os.pathsep.join([str(root), str(tmp_path)])
    work = tmp_path / 'work'
    environment = dict(env=dict(PORT=free_port(), PYTHONPATH=path), cwd=root)
    out = train(work, tool=('dist_train.sh', RSD, 2), run=run_tool, **environment).stdout
    # 192 images, 64 a process, 2 processes: one iteration.
    checkpoint = read_checkpoint(work / 'epoch_1.pth')
    assert checkpoint['meta']['iter'] == 1
    assert 'MMDistributedDataParallel' in out
    arguments = ['--work-dir', tmp_path / 'w', '--cfg-options', 'test_dataloader.dataset.indices=100']
    environment['env']['PORT'] = free_port()
    done = run_tool('dist_test.sh', RSD, work / 'epoch_1.pth', 2, *arguments, **environment)
    for printed in (out, done.stdout):
        assert re.findall(r'threads at the end: (\d+)', printed) == ['1', '1']
    tested = float(re.findall(r'accuracy/top1: ([\d.]+)', done.stdout)[-1])
    validated = float(re.findall(r'accuracy/top1: ([\d.]+)', out)[-1])
    assert tested == pytest.approx(validated, abs=1e-3)


def test_check_teacher(call_tool, terminal, teacher, tmp_path):
    """In the distillation it is as good as on its own; on a terminal a bar shows how far it is."""
    accuracies = []
    screen = terminal()
    option = f'model.teacher.checkpoint={teacher}'
    for command in (
        ('check_teacher.py', RSD, '--work-dir', tmp_path / 'a', '--cfg-options', option),
        ('test.py', 'configs/quickstart/resnet_digits.py', teacher, '--work-dir', tmp_path / 'b'),
    ):
        out = call_tool(*command, stderr=screen).stdout
        accuracies.append(float(re.findall(r'accuracy/top1:? ([\d.]+)', out)[-1]))
    assert re.search(r'teacher: 100%.* 3/3 ', screen.getvalue())
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)


class TestBadCommandLines:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (['train.py', 'nowhere.py'], r"'nowhere.py' is not a config file \(looked in '/"),
            (['test.py', RSD, 'a.pth', '--out-item', 'metrics'], 'give --out FILE as well'),
            (['check_teacher.py', ALONE], "'configs/quickstart/vit_digits.py' is not a distillation: its model has"),
            pytest.param(
                ['train.py', RSD, '--amp'],
                '--amp: automatic mixed precision needs an accelerator, and none is visible',
                marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is an accelerator'),
            ),
        ],
    )
    def test_arguments(self, call_tool, tmp_path, arguments, message):
        done = call_tool(*arguments, '--work-dir', tmp_path, check=False)
        assert done.returncode
        assert re.search(message, done.stdout), done.stdout[-2000:]

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (
                ['train_dataloader.drop_last=False', 'train_dataloader.dataset.indices=129'],
                'with 129 samples per process and batch_size=64, the last batch',
            ),
            (
                ['model.teacher.checkpoint=no.pth'],
                r"Checkpoint 'no.pth' is not a file \(looked in '.*no.pth'\). Give the path of an existing file or",
            ),
        ],
    )
    def test_options(self, train, tmp_path, options, message):
        done = train(tmp_path, options=options, check=False)
        assert done.returncode
        assert re.search(message, done.stdout), done.stdout[-2000:]

    def test_unknown_option(self, train, tmp_path):
        done = train(tmp_path, options=['model.loss.kapa=1'], check=False)
        assert done.returncode == 1
        assert "loss_rsd.loss: RSDLoss has no option 'kapa' (did you mean 'kappa'?)" in done.stdout

    @pytest.mark.parametrize('exists', [False, True])
    def test_missing_dataset(self, call_tool, tmp_path, exists):
        folder = tmp_path / 'imagenet'
        if exists:
            folder.mkdir()
        config = 'configs/rsd/swin-t_to_mobilenetv2_in1k.py'
        option = f'train_dataloader.dataset.data_root={folder}'
        done = call_tool('train.py', config, '--work-dir', tmp_path / 'w', '--cfg-options', option, check=False)
        missing = folder / 'train' if exists else folder
        assert done.returncode == 1
        assert (
            f"train_dataloader: the folder '{missing}' of the dataset ImageNet does not exist (looked in '{missing}'). "
            'Put or link the data there, or change it with --cfg-options train_dataloader.dataset.data_root=PATH.'
        ) in done.stdout

    @pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
    def test_too_few_arguments_of_a_launcher(self, run_tool, root, script):
        done = run_tool(script, RSD, cwd=root, check=False)
        assert done.returncode == 2
        assert done.stdout.startswith('usage: ')

    def test_checkpoint_of_another_student(self, call_tool, teacher, tmp_path):
        done = call_tool('test.py', RSD, teacher, '--work-dir', tmp_path, check=False)
        assert 'does not fit the student (ImageClassifier):' in done.stdout
        assert re.search(r'\d+ missing: backbone.cls_token', done.stdout)


@pytest.mark.parametrize(('script', 'work'), [('slurm_train.sh', 'WORK'), ('slurm_test.sh', 'CHECKPOINT')])
def test_slurm_scripts_call_srun(root, tmp_path, script, work):
    """With a stand-in for srun that prints what it was given."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = {**os.environ, 'GPUS': '4', 'SRUN_ARGS': '--mem 8G', 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    command = [str(root / 'tools' / script), 'gpu', 'job', 'CONFIG', work, '--amp']
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:6] == ['-p', 'gpu', '--job-name=job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4']
    assert lines[8:10] == ['--mem', '8G']
    tail = ['CONFIG', f'--work-dir={work}'] if 'train' in script else ['CONFIG', work]
    assert lines[-5:] == [*tail, '--launcher', 'slurm', '--amp']
