# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import re
import subprocess
import sys
import types

import pytest

from rsd_mm import dependencies
from rsd_mm.dependencies import Dependency, check_dependency, check_pkg_resources

FAKE = Dependency('fake_mm', '1.2', '2.0', 'fake-mm')


@pytest.fixture
def fake_module(monkeypatch):
    def install(version):
        module = types.ModuleType('fake_mm')
        module.__version__ = version
        monkeypatch.setitem(sys.modules, 'fake_mm', module)

    return install


@pytest.mark.parametrize('version', ['1.2', '1.2.0', '1.9.9', '1.2.0+cu130', '1.3.0rc1'])
def test_supported_versions_pass(fake_module, version):
    fake_module(version)
    check_dependency(FAKE)


@pytest.mark.parametrize(('version', 'too'), [('1.1.9', 'old'), ('2.0', 'new'), ('2.0.0rc1', 'new')])
def test_unsupported_version_says_range_and_cure(fake_module, version, too):
    fake_module(version)
    message = (
        f'rsd_mm supports fake_mm >=1.2,<2.0, but {version} is installed, which is too {too}. '
        'To change it: pip install "fake-mm>=1.2,<2.0".'
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        check_dependency(FAKE)


def test_missing_package_says_range_and_cure():
    message = (
        'rsd_mm needs fake_mm >=1.2,<2.0, which is not installed. To install it: pip install "fake-mm>=1.2,<2.0". '
        'The tested set of packages: pip install -e ".[mm]" -c requirements/constraints.txt'
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        check_dependency(FAKE)


def _package(tmp_path, monkeypatch, body):
    (tmp_path / 'fake_mm.py').write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'fake_mm', raising=False)


def test_package_that_lacks_another_names_that(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, 'import something_else_entirely')
    with pytest.raises(ImportError, match="fake_mm, which is installed but lacks the module 'something_else_entirely'"):
        check_dependency(FAKE)


def test_broken_import_gives_the_reason(tmp_path, monkeypatch):
    _package(tmp_path, monkeypatch, 'raise OSError("libGL.so.1: cannot open shared object file")')
    with pytest.raises(ImportError, match='whose import fails: libGL.so.1.*apt-get install libgl1'):
        check_dependency(FAKE)


def test_mismatched_torchvision_is_explained(tmp_path, monkeypatch):
    assert 'matched pair' in dependencies._advice('torchvision', RuntimeError('operator torchvision::nms'))


def test_missing_pkg_resources(monkeypatch):
    monkeypatch.setattr(dependencies.importlib.metadata, 'version', lambda name: '0.10.7')
    monkeypatch.setattr(dependencies.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=re.escape('pip install "setuptools<82"')):
        check_pkg_resources()


def test_import_without_mmpretrain_says_so():
    """The real import, in a process that cannot see mmpretrain."""
    code = (
        'import sys\n'
        'class Block:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        "        if name == 'mmpretrain':\n"
        "            raise ModuleNotFoundError('No module named mmpretrain', name='mmpretrain')\n"
        'sys.meta_path.insert(0, Block())\n'
        'import rsd_mm\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('ImportError: rsd_mm needs mmpretrain >=1.0.0,<2.0.0, which is not installed.')
    assert 'pip install "mmpretrain>=1.0.0,<2.0.0"' in last
