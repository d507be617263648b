# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Makes the distillation half of mmrazor importable on torch >= 2.

The released mmrazor 1.0.0 imports its quantization half with everything else.
From torch 2.0 on that half stops with "``torch>=1.13`` is not installed
properly", since internals of torch that it names are gone. It also asserts
mmcv <= 2.1.0, of which distillation uses nothing that has changed since.

Importing this module imports mmrazor; in a config, before anything of mmrazor is
built::

    custom_imports = dict(imports=['rsd_mm', 'rsd_mm.compat.mmrazor'])

Where mmrazor imports as it is (its main branch), that is all that happens.
Otherwise quantization is left out, as mmrazor itself leaves it out for a torch
below 1.13. Nothing is changed on disk, nor in torch and mmcv once it is done.
"""

import contextlib
import importlib
import sys
from typing import Any, Iterator

import mmcv
import torch


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def import_mmrazor() -> None:
    """Import mmrazor, without its quantization where that does not import.

    Raises:
        ImportError: If mmrazor, or a package that it needs, is not installed.
    """
    with _replaced(mmcv, '__version__', '2.1.0'):
        mmrazor = importlib.import_module('mmrazor')
    try:
        importlib.import_module('mmrazor.structures.quantization')
    except ImportError as error:
        if 'torch>=1.13' not in str(error):
            raise
        for name in [name for name in sys.modules if name.startswith('mmrazor.structures')]:
            del sys.modules[name]  # imported halfway
        digit_version = mmrazor.digit_version

        def pretend(version: str) -> Any:
            return digit_version('1.12.0' if version == torch.__version__ else version)

        with _replaced(mmrazor, 'digit_version', pretend):
            importlib.import_module('mmrazor.structures.quantization')
    importlib.import_module('mmrazor.models')  # here, so that what is missing is told now


import_mmrazor()
