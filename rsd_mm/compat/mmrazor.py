# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Make the distillation half of mmrazor importable on torch >= 2.

mmrazor 1.0.0 imports its quantization half along with the rest, which fails from torch 2.0 on ("``torch>=1.13`` is not
installed properly") since it uses removed internals of torch. It also asserts mmcv <= 2.1.0, although distillation uses
nothing that has changed since.

Importing this module imports mmrazor. In a config, import it before anything of mmrazor is built::

    custom_imports = dict(imports=['rsd_mm', 'rsd_mm.compat.mmrazor'])

Quantization is left out where it cannot be imported, in the way mmrazor leaves it out for torch < 1.13. No file is
changed, and torch and mmcv are as before afterwards.
"""

import importlib
import sys
from typing import Any
from unittest import mock

import mmcv
import torch


def import_mmrazor() -> None:
    """Import mmrazor, without its quantization if that cannot be imported.

    Raises:
        ImportError: If mmrazor, or a package that it needs, is not installed.
    """
    with mock.patch.object(mmcv, '__version__', '2.1.0'):
        mmrazor = importlib.import_module('mmrazor')
    try:
        importlib.import_module('mmrazor.structures.quantization')
    except ImportError as error:
        if 'torch>=1.13' not in str(error):
            raise
        for name in [name for name in sys.modules if name.startswith('mmrazor.structures')]:
            del sys.modules[name]  # partially imported
        digit_version = mmrazor.digit_version

        def pretend(version: str) -> Any:
            return digit_version('1.12.0' if version == torch.__version__ else version)

        with mock.patch.object(mmrazor, 'digit_version', pretend):
            importlib.import_module('mmrazor.structures.quantization')
    importlib.import_module('mmrazor.models')  # reports missing packages now


import_mmrazor()
