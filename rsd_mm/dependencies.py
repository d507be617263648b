# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Check the required packages on import.

The base install does not require them, so that pip does not replace those of an existing environment (full mmcv and
mmcv-lite share a folder, and a CUDA build of torch is easily lost). A missing or unsupported package is reported with
the command that fixes it.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import NamedTuple

from packaging.version import Version


class Dependency(NamedTuple):
    """A module, its supported versions (minimum <= version < limit), and the package that provides it."""

    module: str
    minimum: str
    limit: str
    package: str


DEPENDENCIES = (
    Dependency('torch', '2.1', '3', 'torch'),
    Dependency('torchvision', '0.16', '1', 'torchvision'),
    Dependency('mmengine', '0.10.0', '1.0.0', 'mmengine'),
    Dependency('mmcv', '2.0.0', '2.4.0', 'mmcv-lite'),
    Dependency('mmpretrain', '1.0.0', '2.0.0', 'mmpretrain'),
)

_TESTED = 'The tested set of packages: pip install -e ".[mm]" -c requirements/constraints.txt (in a clone of rsd_mm).'


def check_dependency(dependency: Dependency) -> None:
    """Check that a package is installed and supported.

    Raises:
        ImportError: If not; names the package, the supported versions and the command that fixes it.
    """
    name, minimum, limit, package = dependency
    supported = f'>={minimum},<{limit}'
    install = f'pip install "{package}{supported}". {_TESTED}'
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise ImportError(
                f'rsd_mm needs {name} {supported}, which is not installed. To install it: {install}'
            ) from error
        raise ImportError(
            f'rsd_mm needs {name}, which is installed but lacks the module {error.name!r}. '
            f'To install that: pip install {error.name}. {_TESTED}'
        ) from error
    except Exception as error:  # A broken binary raises RuntimeError, AssertionError, OSError, ...
        raise ImportError(f'rsd_mm needs {name}, whose import fails: {error}. {_advice(name, error)}') from error
    version = Version(module.__version__)
    # A pre-release or local build (2.11.0+cu130) of a supported version is supported.
    if not Version(minimum) <= Version(version.base_version) < Version(limit):
        too = 'old' if version < Version(minimum) else 'new'
        raise ImportError(
            f'rsd_mm supports {name} {supported}, but {version} is installed, which is too {too}. '
            f'To change it: {install}'
        )


def _advice(name: str, error: Exception) -> str:
    if name == 'torchvision':
        return (
            'It was probably built for a different version of torch. Install a matched '
            'pair, for example: pip install torch==2.11.0 torchvision==0.26.0.'
        )
    if 'libGL' in str(error) or 'libgthread' in str(error):
        return (
            'OpenCV lacks a system library: apt-get install libgl1 libglib2.0-0, or use the headless build: '
            'pip uninstall opencv-python && pip install opencv-python-headless.'
        )
    return _TESTED


def check_pkg_resources() -> None:
    """Check for pkg_resources, which mmengine needs for ``mmpretrain::`` configs and setuptools 82 removed."""
    try:
        importlib.metadata.version('mmengine')
    except importlib.metadata.PackageNotFoundError:
        return  # The fork of mmengine does not need it.
    if importlib.util.find_spec('pkg_resources') is None:
        raise ImportError(
            'rsd_mm needs pkg_resources, which mmengine uses to find the configs of mmpretrain, and which '
            'setuptools removed in version 82. To install it: pip install "setuptools<82".'
        )


def check_dependencies() -> None:
    """Check all packages; the first problem raises an ImportError."""
    for dependency in DEPENDENCIES:
        check_dependency(dependency)
    check_pkg_resources()
