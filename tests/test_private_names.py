# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Private names of other packages, which may go without notice: each is listed, and there in what is installed."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from mmengine.runner import Runner

PACKAGE = Path(__file__).resolve().parent.parent / 'rsd_mm'

#: Their owner, the name, and the only file that uses it, in which a comment says why.
PRIVATE = [
    (Runner, '_load_from', 'engine/runner.py'),
    (Runner, '_resume', 'engine/runner.py'),
    (Runner, '_train_loop', 'engine/cleanup.py'),
]
#: What looks like one and is not.
PUBLIC = {
    '_cleanup_stack',  # our own, on a loop of mmengine
    '_exit',  # os._exit is documented
}
CHECKED = ['engine', 'datasets', 'visualization', 'compat', 'dependencies.py']


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
    files = [file for path in CHECKED for file in ([PACKAGE / path] if '.' in path else (PACKAGE / path).rglob('*.py'))]
    assert len(files) > 15
    found = {(name, file.relative_to(PACKAGE).as_posix()) for file in files for name in uses(file)}
    assert {(name, file) for name, file in found if name not in PUBLIC} == {(name, file) for _, name, file in PRIVATE}


@pytest.mark.stack
@pytest.mark.parametrize(('owner', 'name'), [(owner, name) for owner, name, _ in PRIVATE])
def test_it_is_there(owner, name):
    assert hasattr(owner, name) or re.search(rf'\bself\.{name} = ', inspect.getsource(owner))


@pytest.mark.stack
def test_a_runner_loads_by_them():
    source = inspect.getsource(Runner.load_or_resume)
    assert 'self._load_from' in source
    assert 'self._resume' in source
