# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Which packages rsd_mm stands on, checked when it is imported.

The base install forces none of them on an environment that has them already
(full mmcv and mmcv-lite own the same folder, a CUDA build of torch is easily
replaced by another), so a missing or unsuitable one is reported here, with the
command that cures it.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import NamedTuple

from packaging.version import Version


class Dependency(NamedTuple):
    """A package, the versions it may have (minimum <= version < limit), how to get it."""

    module: str
    minimum: str
    limit: str
    requirement: str

    @property
    def supported(self) -> str:
        return f'>={self.minimum},<{self.limit}'

    @property
    def cure(self) -> str:
        return f'pip install "{self.requirement}{self.supported}"'


DEPENDENCIES = (
    Dependency('torch', '2.1', '3', 'torch'),
    Dependency('torchvision', '0.16', '1', 'torchvision'),
    Dependency('mmengine', '0.10.0', '1.0.0', 'mmengine'),
    Dependency('mmcv', '2.0.0', '2.4.0', 'mmcv-lite'),
    Dependency('mmpretrain', '1.0.0', '2.0.0', 'mmpretrain'),
)

_WHOLE_STACK = (
    'The tested set of all of them: pip install -e ".[mm]" -c requirements/constraints.txt (from a clone of rsd_mm).'
)


def check_dependency(dependency: Dependency) -> None:
    """Raise an ImportError that names the package, the supported range and the cure."""
    name, supported = dependency.module, dependency.supported
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ImportError(
                f'rsd_mm needs {name}, which is installed but lacks the module '
                f'{error.name!r}. To install that: pip install {error.name}. {_WHOLE_STACK}'
            ) from error
        raise ImportError(
            f'rsd_mm needs {name} {supported}, which is not installed. To install it: {dependency.cure}. {_WHOLE_STACK}'
        ) from error
    except Exception as error:  # a broken binary raises RuntimeError, AssertionError, OSError...
        raise ImportError(f'rsd_mm needs {name}, whose import fails: {error}. {_advice(name, error)}') from error
    version = Version(module.__version__)
    # A pre-release or a local build (2.11.0+cu130) of a supported version is supported.
    if not Version(dependency.minimum) <= Version(version.base_version) < Version(dependency.limit):
        too = 'old' if version < Version(dependency.minimum) else 'new'
        raise ImportError(
            f'rsd_mm supports {name} {supported}, but {version} is installed, which is too {too}. '
            f'To change it: {dependency.cure}. {_WHOLE_STACK}'
        )


def _advice(name: str, error: Exception) -> str:
    if name == 'torchvision':
        return (
            'This is what happens when torchvision was built for another torch. Install a matched '
            'pair, for example: pip install torch==2.11.0 torchvision==0.26.0.'
        )
    if 'libGL' in str(error) or 'libgthread' in str(error):
        return (
            'OpenCV lacks a system library: apt-get install libgl1 libglib2.0-0, or use the build '
            'without a window system: pip uninstall opencv-python && pip install opencv-python-headless.'
        )
    return _WHOLE_STACK


def check_pkg_resources() -> None:
    """mmengine reads ``mmpretrain::`` configs through pkg_resources, gone from setuptools 82."""
    try:
        importlib.metadata.version('mmengine')
    except importlib.metadata.PackageNotFoundError:
        return  # a fork of mmengine under another name, which does without
    if importlib.util.find_spec('pkg_resources') is None:
        raise ImportError(
            'rsd_mm needs pkg_resources, through which mmengine finds the configs of mmpretrain, '
            'and which setuptools has below version 82 only. To install it: pip install "setuptools<82".'
        )


def check_dependencies() -> None:
    """Check them all; the first that does not fit raises an ImportError."""
    for dependency in DEPENDENCIES:
        check_dependency(dependency)
    check_pkg_resources()
