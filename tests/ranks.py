# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Processes of a group, forked from one that has everything imported."""

import multiprocessing
import os
import traceback

PRELOADED = ['rsd_mm', 'mmpretrain.models', 'mmpretrain.datasets', 'sklearn.datasets']


def forkserver():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    return context


def run_rank(function, rank, world, arguments, rendezvous, log):
    """Call ``function(rank, world, *arguments)`` in a process group (gloo), with its output in a file."""
    import torch
    from mmengine.registry import init_default_scope

    from common.launch import destroy_process_group

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ['LOCAL_RANK'] = str(rank)
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    torch.distributed.init_process_group('gloo', init_method=f'file://{rendezvous}', rank=rank, world_size=world)
    try:
        function(rank, world, *arguments)
        torch.distributed.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # Ending the group would wait for the others.
    destroy_process_group()
