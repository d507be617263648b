# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the tools share: the arguments that OpenMMLab users know, and how a run is set up."""

import argparse
import gc
import inspect
import os
import os.path as osp
import tempfile
import traceback
from typing import Callable, Optional, TypeVar

import torch
import torch.distributed as torch_dist
from mmengine import dist
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import DATASETS

T = TypeVar('T')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/NAME_OF_THE_CONFIG)')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; needs an accelerator')
    parser.add_argument('--no-pin-memory', action='store_true', help='turn pin_memory off in the data loaders')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='change the config: KEY=VALUE ..., for example model.loss.kappa=0.02 or '
        "train_dataloader.batch_size=32; lists as KEY='[a,b]'",
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='how the processes were started'
    )
    # Some launchers pass it; torchrun sets the environment instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def read_config(path: str, options: Optional[dict] = None) -> Config:
    """Read the config of a run, and take its scope.

    Args:
        path (str): The file.
        options (dict, optional): Changes, as of ``--cfg-options``. Defaults to None.

    Raises:
        SystemExit: If the file does not exist.
    """
    if not osp.isfile(path):
        raise SystemExit(f'{path!r} is not a config file (looked in {osp.abspath(path)!r}).')
    cfg = Config.fromfile(path)
    if options is not None:
        cfg.merge_from_dict(options)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    return cfg


def check_distillation(cfg: Config, path: str) -> None:
    """Refuse the config of a plain model where a tool is for distillations.

    Raises:
        SystemExit: If there is no teacher; the message names the file.
    """
    if 'teacher' not in cfg.model:
        raise SystemExit(
            f'{path!r} is not a distillation: its model has no teacher. Give the config of one, such as those in '
            'configs/rsd.'
        )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name, and set what applies to every tool.

    Raises:
        SystemExit: If the file does not exist, if the work dir can't be written,
            or if ``--amp`` is asked for without an accelerator.
    """
    cfg = read_config(args.config, args.cfg_options)
    if args.amp and get_device() == 'cpu':
        raise SystemExit('--amp: automatic mixed precision needs an accelerator, and none is visible. Leave it out.')
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    name = osp.splitext(osp.basename(args.config))[0]
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', name)
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=cfg.work_dir).close()
    except OSError as error:
        raise SystemExit(
            f'The work dir {cfg.work_dir!r} cannot be written: {error.strerror}. Give another one with --work-dir.'
        ) from None
    return cfg


def set_dataloader_defaults(cfg: Config, args: argparse.Namespace, *fields: str, **defaults: object) -> None:
    """Fill in what the data loaders leave open, as MMPretrain's tools do."""
    for field in fields:
        if cfg.get(field) is None:
            continue
        loader = ConfigDict(pin_memory=get_device() != 'cpu', collate_fn=dict(type='default_collate'), **defaults)
        loader.update(cfg[field])
        if args.no_pin_memory:
            loader.pin_memory = False
        if not loader.get('num_workers'):
            loader.persistent_workers = False
        cfg[field] = loader


def check_data_folders(cfg: Config, *fields: str) -> None:
    """Find a missing dataset before anything is built.

    Raises:
        SystemExit: If the folder of a dataset that can't download itself does not
            exist; the message says where it was looked for and how to change it.
    """
    for field in fields:
        dataset = (cfg.get(field) or {}).get('dataset', {})
        root, kind = dataset.get('data_root'), dataset.get('type')
        cls = DATASETS.get(kind) if isinstance(kind, str) else kind
        if not root or '://' in root or cls is None or 'download' in inspect.signature(cls).parameters:
            continue
        folder = osp.expanduser(root)
        if osp.isdir(folder) and not dataset.get('ann_file') and dataset.get('split'):
            # MMPretrain reads the images of a split from meta/SPLIT.txt, or else from the split's folder.
            if osp.isfile(osp.join(folder, 'meta', f'{dataset.split}.txt')):
                continue
            folder = osp.join(folder, dataset.get('data_prefix') or dataset.split)
        if not osp.isdir(folder):
            raise SystemExit(
                f'{field}: the folder {folder!r} of the dataset {dataset.type} does not exist (looked in '
                f'{osp.abspath(folder)!r}). Put or link the data there, or change it with '
                f'--cfg-options {field}.dataset.data_root=PATH.'
            )


def run_distributed(cfg: Config, function: Callable[[], T]) -> T:
    """Call a function that builds and uses a runner, in one process or several, and end their group after it.

    mmengine selects a CUDA device for every process. Without an accelerator it
    would fail, so the process group is created here, with gloo. The group is
    destroyed once the runner is gone, of which the function has to keep nothing.
    After an error it is left alone: destroying it would wait for the other
    processes instead of telling them.

    Args:
        cfg (Config): The whole config; ``model_wrapper_cfg`` may be set in it.
        function (Callable): What is to be run; takes nothing.

    Returns:
        object: What the function returned.

    Raises:
        SystemExit: If more processes were started than there are GPUs, or if
            there is no accelerator and the launcher is not torchrun.
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
    """End the process group, if there is one, together with its threads.

    The threads free the tensors of the last collectives, for which they take the
    interpreter's lock; where the interpreter is ending, that aborts a process
    whose work is done. They end with the last reference to the group, which DDP
    has one of: let go of the model before.
    """
    if dist.is_distributed():
        gc.collect()  # A runner is in cycles with its hooks.
        torch_dist.destroy_process_group()


def _init_distributed(cfg: Config) -> None:
    if get_device() != 'cpu':
        local_rank, gpus = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
        if cfg.launcher == 'pytorch' and torch.cuda.is_available() and local_rank >= gpus:
            processes = os.environ.get('LOCAL_WORLD_SIZE', local_rank + 1)
            raise SystemExit(
                f'{processes} processes were started on this machine, but {gpus} GPUs are visible. Start one a GPU.'
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


def build_with_random_weights(cfg: Config) -> BaseModel:
    """Build the distiller of a run's config without reading or downloading any weights, to look at it.

    Args:
        cfg (Config): The whole config; changed in place.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    cfg.model.teacher.update(checkpoint=None, allow_random_weights=True)
    if {'pretrained', 'cfg_path'} & cfg.model.teacher.keys():
        cfg.model.teacher.pretrained = False
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    return MODELS.build(cfg.model)
