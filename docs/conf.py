# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Sphinx: ``sphinx-build -W docs _build``. The pages are Markdown, the reference comes from the docstrings."""

import os
import re
from pathlib import Path

from rsd_mm import __version__

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
#: Pages that are written elsewhere and included here.
INCLUDED = {ROOT / 'configs/rsd/README.md': 'pairs.md', ROOT / 'configs/baselines/README.md': 'baselines.md'}

project = 'rsd_mm'
author = 'rsd_mm contributors'
copyright = author
release = version = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'rsd_mm {release}'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
autodoc_typehints = 'none'  # the docstrings say them
napoleon_use_rtype = False


def relocate(text: str, folder: Path) -> str:
    """Links of a page that is read elsewhere, or beyond the docs, as they are from here; folders become code."""

    def link(match: 're.Match[str]') -> str:
        target = (folder / match[2]).resolve()
        if target.is_dir():
            return f'`{match[1].strip("`")}`'
        return f'[{match[1]}]({INCLUDED.get(target) or os.path.relpath(target, DOCS)}{match[3] or ""})'

    return re.sub(r'\[([^\]\n]+)\]\(([^):#\s]+)(#[^)\s]*)?\)', link, text)


def setup(app):
    def on_page(app, docname, source):
        source[0] = relocate(source[0], DOCS)

    def on_include(app, path, docname, source):
        source[0] = relocate(source[0], (DOCS / path).resolve().parent)

    app.connect('source-read', on_page)
    app.connect('include-read', on_include)
