# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Processes forked from one that has everything imported and has not trained: they start at once."""

import contextlib
import multiprocessing
import os
import sys
import traceback
from multiprocessing import forkserver

import pytest
import torch
from fast import shortcuts

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
            sys.exit(1)
