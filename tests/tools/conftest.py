# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Tools without the seconds that a process of their own takes to import torch and mmpretrain."""

import contextlib
import io
import logging
import os
import runpy
import signal
import socket
import sys
import warnings
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import MODELS
from mmpretrain.visualization import UniversalVisualizer

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs' / 'quickstart'


class Terminal(io.StringIO):
    """A stream on which progress bars are shown."""

    def isatty(self):
        return True


def call(tool, *arguments, cwd=ROOT, check=True, stderr=None):
    """Run a script as ``python tools/TOOL ARGUMENTS`` in this process; returns what ``run_tool`` does."""
    for manager in (MMLogger, MessageHub, UniversalVisualizer):
        manager._instance_dict.clear()  # There is no public way; a runner of the same second would get the last one's.
    out, folder, argv, handler = io.StringIO(), os.getcwd(), sys.argv, signal.getsignal(signal.SIGTERM)
    environment = dict(os.environ)
    os.chdir(cwd)
    sys.argv = [str(ROOT / 'tools' / tool), *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(stderr or out), warnings.catch_warnings():
            runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        out.write('' if isinstance(ended.code, int) else str(ended.code or ''))
    except Exception as error:
        if check:
            raise
        code = 1
        out.write(f'{type(error).__name__}: {error}')
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)  # MMPretrain's tools set LOCAL_RANK.
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
        logging.disable(logging.NOTSET)
    assert not (check and code), out.getvalue()[-4000:]
    return CompletedProcess(sys.argv, code, out.getvalue())


@pytest.fixture(scope='session')
def call_tool():
    return call


@pytest.fixture(scope='session')
def terminal():
    return Terminal


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('place')


@pytest.fixture(scope='session')
def digits_weights():
    """Save random weights of a config of the quickstart."""

    def save(name, path, seed=0):
        torch.manual_seed(seed)
        model = MODELS.build(dict(Config.fromfile(str(DIGITS / f'{name}.py')).model, _scope_='mmpretrain'))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=model.state_dict()), path)
        return path

    return save


@pytest.fixture
def free_port():
    """A port for a rendezvous, as a string."""

    def choose():
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            return str(probe.getsockname()[1])

    return choose
