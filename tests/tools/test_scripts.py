# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Every script, from any folder."""

import os
import subprocess
import sys


def test_every_script_tells_its_options(root, tmp_path):
    """One process for all; what a script needs of tools/ it has to find by itself, beyond what python does for it."""
    code = (
        'import contextlib, os, runpy, sys\n'
        'path = list(sys.path)\n'
        'for script in sys.argv[1:]:\n'
        '    for name in [name for name in sys.modules if name.split(".")[0] in ("common", "benchmarks")]:\n'
        '        del sys.modules[name]\n'
        '    sys.path[:] = [os.path.dirname(script), *path]\n'
        '    sys.argv = [script, "--help"]\n'
        '    with contextlib.suppress(SystemExit):\n'
        '        runpy.run_path(script, run_name="__main__")\n'
        '    print("told", script)\n'
    )
    tools = root / 'tools'
    scripts = [str(path) for path in sorted(tools.rglob('*.py')) if '__main__' in path.read_text()]
    scripts = [script for script in scripts if 'draw_method' not in script]  # Which has none.
    assert len(scripts) > 15
    environment = {**os.environ, 'PYTHONPATH': str(root)}
    command = [sys.executable, '-c', code, *scripts]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for script in scripts:
        assert f'usage: {os.path.basename(script)}' in done.stdout
        assert f'told {script}' in done.stdout
