# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Processes forked from one that has everything imported and has not trained: they start at once."""

import contextlib
import multiprocessing
import os
import traceback
from multiprocessing import forkserver

import pytest
import torch
import torch.distributed as dist
from fast import shortcuts
from mmengine.registry import init_default_scope

from common.launch import destroy_process_group

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['preloaded'])


def start(function, *arguments, output=os.devnull):
    """Call a function of a module in a new process, which prints into a file; returns the process."""
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.13 the server takes no other path to what it preloads.
        patch.setenv('PYTHONPATH', os.path.dirname(__file__), prepend=os.pathsep)
        forkserver.ensure_running()
    process = context.Process(target=_call, args=(function, arguments, output))
    process.start()
    return process


def run(function, *arguments, output):
    """Call a function of a module in a new process, and see that it ends without an error."""
    process = start(function, *arguments, output=output)
    process.join(300)
    assert process.exitcode == 0, output.read_text()[-3000:]


def _call(function, arguments, output):
    torch.set_num_threads(1)
    with open(output, 'w', buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with shortcuts():
                function(*arguments)
        except Exception:
            traceback.print_exc()
            file.flush()
            os._exit(1)  # Ending a process group would wait for the other ranks.


def run_rank(function, rank, world, arguments, rendezvous):
    """Call ``function(rank, world, *arguments)`` in a process group (gloo)."""
    os.environ['LOCAL_RANK'] = str(rank)
    init_default_scope('mmpretrain')
    dist.init_process_group('gloo', init_method=f'file://{rendezvous}', rank=rank, world_size=world)
    function(rank, world, *arguments)
    dist.barrier()
    destroy_process_group()
