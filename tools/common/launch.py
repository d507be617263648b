# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Setting up a run: OpenMMLab's usual arguments, the config, and its processes."""

import argparse
import gc
import os
import os.path as osp
import tempfile
import traceback
from typing import Callable, TypeVar

import torch
import torch.distributed as torch_dist
from mmengine import dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from common.arguments import add_cfg_options, name_of
from common.configs import check_data_folders, read_config

T = TypeVar('T')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/NAME_OF_THE_CONFIG)')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; needs an accelerator')
    parser.add_argument('--no-pin-memory', action='store_true', help='disable pin_memory in the data loaders')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='how processes were started'
    )
    # Some launchers pass it; torchrun sets the environment variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments of :func:`add_run_arguments`.

    Raises:
        SystemExit: If the file does not exist, if the work dir is not writable, or
            if ``--amp`` is given without an accelerator.
    """
    cfg = read_config(args.config, args.cfg_options)
    if args.amp and get_device() == 'cpu':
        raise SystemExit('--amp: automatic mixed precision needs an accelerator, and none is visible. Leave it out.')
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', name_of(args.config))
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=cfg.work_dir).close()
    except OSError as error:
        raise SystemExit(
            f'The work dir {cfg.work_dir!r} cannot be written: {error.strerror}. Give another one with --work-dir.'
        ) from None
    return cfg


def set_dataloader_defaults(cfg: Config, args: argparse.Namespace, *loaders: str, **defaults: object) -> None:
    """Fill in missing options of data loaders, as MMPretrain's tools do."""
    for field in loaders:
        if cfg.get(field) is None:
            continue
        loader = ConfigDict(pin_memory=get_device() != 'cpu', collate_fn=dict(type='default_collate'), **defaults)
        loader.update(cfg[field])
        if args.no_pin_memory:
            loader.pin_memory = False
        if not loader.get('num_workers'):
            loader.persistent_workers = False
        cfg[field] = loader


def keep_test_only(cfg: Config, args: argparse.Namespace) -> None:
    """Remove from a config what only training and validation need, and prepare the test.

    Raises:
        SystemExit: If the test data is missing.
    """
    cfg.load_from, cfg.resume, cfg.custom_hooks = None, False, []
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    if args.amp:
        cfg.test_cfg.fp16 = True
    set_dataloader_defaults(cfg, args, 'test_dataloader')
    check_data_folders(cfg, 'test_dataloader')


def run_distributed(cfg: Config, function: Callable[[], T]) -> T:
    """Call a function that builds and uses a runner, on one process or several.

    mmengine's Runner initializes the process group on accelerators; for CPUs, gloo
    is initialized here. The group is destroyed once the function, which must not
    keep its runner, has returned or exited. After an error it is left alone:
    destroying it would wait for the other processes instead of failing them.

    Raises:
        SystemExit: If there are more processes than GPUs, or if there is no
            accelerator and the launcher is not torchrun.
    """
    if cfg.launcher != 'none':
        _init_distributed(cfg)
    try:
        result = function()
        dist.barrier()
    except SystemExit as error:
        traceback.clear_frames(error.__traceback__)  # They hold the runner.
        destroy_process_group()
        raise
    destroy_process_group()
    return result


def destroy_process_group() -> None:
    """Destroy the process group, if there is one, and with it its threads.

    The threads take the interpreter's lock to free the tensors of the last
    collectives, which aborts a process whose interpreter is exiting. They end with
    the last reference to the group. DDP holds one, so drop the model first.
    """
    if dist.is_distributed():
        gc.collect()  # A runner and its hooks refer to each other.
        torch_dist.destroy_process_group()


def _init_distributed(cfg: Config) -> None:
    if get_device() != 'cpu':
        local_rank, gpus = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
        if cfg.launcher == 'pytorch' and torch.cuda.is_available() and local_rank >= gpus:
            processes = os.environ.get('LOCAL_WORLD_SIZE', local_rank + 1)
            raise SystemExit(
                f'{processes} processes were started on this machine, but {gpus} GPUs are visible. Start one per GPU.'
            )
        return
    if cfg.launcher != 'pytorch':
        raise SystemExit(
            f'--launcher {cfg.launcher} needs an accelerator, and none is visible. On CPUs, use '
            'tools/dist_train.sh or tools/dist_test.sh.'
        )
    torch_dist.init_process_group('gloo')
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
