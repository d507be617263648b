# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What takes longer than the short runs of the tests, left out."""

import contextlib
import copy
import functools
import gc
import os

import mmengine
import pytest
from mmengine.config import Config, config

_parse = Config.fromfile


@functools.cache
def _parsed(filename, modified):
    return _parse(filename)


def parse_once(filename, **options):
    """Config.fromfile, which reads the model index of mmpretrain each time, once for as long as a file is the same."""
    if options:
        return _parse(filename, **options)
    return copy.deepcopy(_parsed(str(filename), os.stat(filename).st_mtime_ns))


@functools.cache
def freeze():
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def shortcuts():
    """Parse configs and read MMPretrain's index once, do not lay out configs, and collect less garbage."""
    freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, 'FormatCode', lambda text, **options: (text, True), raising=False)  # upstream's
        patch.setattr('mmengine.config.utils.load', functools.cache(mmengine.load))
        is_installed = functools.cache(mmengine.utils.is_installed)
        patch.setattr('mmengine.utils.package_utils.is_installed', is_installed)
        patch.setattr(Config, 'fromfile', staticmethod(parse_once))
        yield


@pytest.fixture(scope='module', autouse=True)
def fast_runs():
    with shortcuts():
        yield
