# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Small models, weights and data that the tests share."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import cv2
import forked
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

import rsd_mm  # noqa: F401 (registers its parts)

ROOT = Path(__file__).resolve().parent.parent

# Threads that wait for each other are slower than one on models this small; processes that tests start inherit it.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'

IMAGENET_MEAN, IMAGENET_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def pytest_collection_modifyitems(items):
    """What every supported set of packages has to pass (`-m stack`): these folders, and what is marked elsewhere."""
    for item in items:
        folder = item.path.relative_to(ROOT / 'tests').parts[0]
        if folder in ('models', 'engine', 'utils', 'compat') and item.get_closest_marker('slow') is None:
            item.add_marker('stack')


@pytest.fixture(autouse=True)
def _fresh_state():
    """Every test starts from the same seed, without loggers and scopes of an earlier Runner."""
    torch.manual_seed(0)
    np.random.seed(0)
    init_default_scope('mmpretrain')
    yield
    MMLogger._instance_dict.clear()
    MessageHub._instance_dict.clear()


@pytest.fixture(scope='session')
def root():
    return ROOT


def cnn(classes=10):
    """A small CNN, embedding of 32."""
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=32),
    )


def swin(classes=10):
    """A small Swin transformer with much drop path, embedding of 24."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(embed_dims=12, depths=[2, 2], num_heads=[2, 2]),
            img_size=32,
            patch_size=4,
            window_size=4,
            out_indices=(1,),
            drop_rate=0.1,
            drop_path_rate=0.5,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=24),
    )


@pytest.fixture(name='cnn', scope='session')
def _cnn():
    return cnn


@pytest.fixture(name='swin', scope='session')
def _swin():
    return swin


@pytest.fixture
def save_weights(tmp_path):
    """Save random weights of a model config; returns the path."""

    def save(cfg, name='teacher.pth'):
        model = MODELS.build(copy.deepcopy(cfg))
        path = str(tmp_path / name)
        torch.save(model.state_dict(), path)
        return path

    return save


@pytest.fixture
def make_distiller(save_weights):
    """Build an RSDDistiller of a small CNN taught by a small Swin; keywords change it."""

    def make(student=None, teacher=None, **options):
        if teacher is None:
            teacher = dict(swin(), checkpoint=save_weights(swin()))
        cfg = dict(type='RSDDistiller', student=student or cnn(), teacher=teacher, **options)
        return MODELS.build(cfg)

    return make


@pytest.fixture
def batch():
    """A batch as the data preprocessor gives it."""

    def make(size=8, classes=10, side=32):
        samples = [DataSample().set_gt_label(i % classes) for i in range(size)]
        return torch.randn(size, 3, side, side), samples

    return make


@pytest.fixture
def run_tool():
    """Run a script of tools/ as a user would; returns the finished process."""

    def run(*command, cwd, check=True, env=None, timeout=600, stderr=subprocess.STDOUT):
        script, *arguments = map(str, command)
        path = ROOT / 'tools' / script
        starter = [sys.executable] if script.endswith('.py') else []
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), **(env or {})}
        # The shell scripts call `python`; it has to be this one.
        environment['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), environment['PATH']])
        done = subprocess.run(
            [*starter, str(path), *arguments],
            cwd=cwd,
            env=environment,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        if check:
            assert done.returncode == 0, done.stdout[-4000:]
        return done

    return run


@pytest.fixture
def run_ranks(tmp_path):
    """Call a function of a test file in several processes (gloo) as ``function(rank, world, *arguments)``."""

    def run(function, world, *arguments):
        name = f'{function.__name__}_{world}'
        logs = [tmp_path / f'{name}_{rank}.log' for rank in range(world)]
        processes = [
            forked.start(forked.run_rank, function, rank, world, arguments, str(tmp_path / name), output=logs[rank])
            for rank in range(world)
        ]
        for process in processes:
            process.join(300)
        for process, log in zip(processes, logs):
            assert process.exitcode == 0, log.read_text()[-3000:]
        return [log.read_text() for log in logs]

    return run


@pytest.fixture
def imagenet(tmp_path):
    """A folder in ImageNet's layout: 8 training and 4 validation JPEGs of two classes, with lists."""
    root = tmp_path / 'imagenet'
    generator = np.random.default_rng(0)
    for split, count in dict(train=8, val=4).items():
        lines = []
        for i in range(count):
            name = f'n{i % 2:08d}/{split}_{i}.JPEG'
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / name), generator.integers(0, 256, (240, 300, 3), dtype=np.uint8))
            lines.append(f'{name} {i % 2}')
        (root / 'meta').mkdir(exist_ok=True)
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
    return root
