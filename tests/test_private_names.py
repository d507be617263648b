# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Private names of other packages, which may go without notice: each is listed, and there in what is installed."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import Runner
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import TimmClassifier
from torch import nn

PACKAGE = Path(__file__).resolve().parent.parent / 'rsd_mm'

#: Their owner, the name, and the only file that uses it, in which a comment says why.
PRIVATE = [
    (Runner, '_load_from', 'engine/runner.py'),
    (Runner, '_resume', 'engine/runner.py'),
    (Runner, '_train_loop', 'engine/cleanup.py'),
    (ModelHub, '_models_dict', 'utils/model_index.py'),
    (torch._weights_only_unpickler, '_get_allowed_globals', 'utils/safe_loading.py'),
    (torch, '_weights_only_unpickler', 'utils/safe_loading.py'),
    (nn.Module, '_state_dict_hooks', 'utils/weights.py'),
    (nn.Module, '_load_state_dict_pre_hooks', 'utils/weights.py'),
    (TimmClassifier, '_remove_state_dict_prefix', 'utils/weights.py'),
    (TimmClassifier, '_add_state_dict_prefix', 'utils/weights.py'),
]
#: What looks like one and is not.
PUBLIC = {
    '_cleanup_stack',  # our own, on a loop of mmengine
    '_exit',  # os._exit is documented
}


def uses(path):
    """The private attributes that a file reads of something else than `self` or `cls`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match('_[^_]', node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in ('self', 'cls')) and not (
                isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == 'super'
            ):
                yield node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in [alias.name for alias in node.names] + [getattr(node, 'module', None) or '']:
                yield from (part for part in name.split('.') if re.match('_[^_]', part))


def test_no_others_are_used():
    files = list(PACKAGE.rglob('*.py'))
    found = {(name, file.relative_to(PACKAGE).as_posix()) for file in files for name in uses(file)}
    assert {(name, file) for name, file in found if name not in PUBLIC} == {(name, file) for _, name, file in PRIVATE}


@pytest.mark.stack
@pytest.mark.parametrize(('owner', 'name'), [(owner, name) for owner, name, _ in PRIVATE])
def test_it_is_there(owner, name):
    assert hasattr(owner, name) or re.search(rf'\bself\.{name}\b|["\']{name}["\']', inspect.getsource(owner))


@pytest.mark.stack
def test_a_preprocessor_of_mmengine_says_whether_it_reverses_channels():
    assert ImgDataPreprocessor(bgr_to_rgb=True)._channel_conversion is True
    assert ImgDataPreprocessor()._channel_conversion is False


@pytest.mark.stack
def test_arrays_are_pickled_by_these_names():
    assert pickle.dumps(np.ones(1)).count(b'_reconstruct') == 1


@pytest.mark.stack
def test_a_runner_loads_by_them():
    source = inspect.getsource(Runner.load_or_resume)
    assert 'self._load_from' in source
    assert 'self._resume' in source
