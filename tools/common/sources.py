# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Writing configs as people write them."""

import os
import os.path as osp
from typing import Any, Dict, List

from common.arguments import CONFIGS


def strip_scope(value: Any) -> Any:
    """Remove the ``_scope_`` keys that mmengine adds to the configs of other packages."""
    if isinstance(value, dict):
        return {key: strip_scope(inner) for key, inner in value.items() if key != '_scope_'}
    return type(value)(map(strip_scope, value)) if isinstance(value, (list, tuple)) else value


def replacing(old: Any, new: Dict[str, Any]) -> Dict[str, Any]:
    """Return a dict that replaces the one of a base config instead of being merged into it."""
    return {'_delete_': True, **new} if isinstance(old, dict) else new


def source(value: Any, indent: int = 0, before: int = 0) -> str:
    """Return the Python source of a value, on one line if it fits behind ``before`` other characters."""
    if isinstance(value, dict):
        parts = [(f'{key}=', inner) for key, inner in value.items()]
        begin, end = 'dict(', ')'
    elif isinstance(value, (list, tuple)):
        parts = [('', inner) for inner in value]
        begin, end = ('[', ']') if isinstance(value, list) else ('(', ')')
    else:
        return repr(value)
    flat = begin + ', '.join(key + source(inner) for key, inner in parts) + end
    if indent + before + len(flat) < 120:
        return flat
    pad = ' ' * (indent + 4)
    lines = [f'{pad}{key}{source(inner, indent + 4, len(key) + 1)},\n' for key, inner in parts]
    return f'{begin}\n{"".join(lines)}{" " * indent}{end}'


def write_config(path: str, comment: str, bases: List[str], settings: Dict[str, Any]) -> None:
    """Write a config on files of ``configs/_base_``; ``test_`` settings that equal ``val_`` ones refer to them."""
    folder = osp.dirname(osp.abspath(path))
    files = [osp.relpath(osp.join(CONFIGS, '_base_', f'{base}.py'), folder).replace(os.sep, '/') for base in bases]
    text = f'_base_ = {source(files, before=9)}'
    for name, value in settings.items():
        twin = name.replace('test_', 'val_')
        same = twin != name and settings.get(twin) is value
        text += f'\n\n{name} = {twin if same else source(value, before=len(name) + 3)}'
    with open(path, 'w', encoding='utf-8') as file:
        file.write(f'# {comment}\n# Written by tools/make_pair.py; edit as you like.\n{text}\n')
