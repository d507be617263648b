# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The table of docs/compatibility.md."""

import importlib.util
import sys


def test_rows_are_read_and_written_back(root, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('compatibility', root / 'tools/dev/compatibility.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.PAGE.read_text()
    page = tmp_path / 'page.md'
    page.write_text(text)
    monkeypatch.setattr(tool, 'PAGE', page)
    rows = tool.rows_of_page(text)
    assert rows
    assert all(len(row) == len(tool.HEAD) for row in rows)
    tool.write(rows)
    assert page.read_text() == text
    found = tool.versions(sys.executable)
    assert set(found) == set(tool.HEAD[:-2])
    assert found['torch'] != 'none'
