# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Run the tests in other environments and update the table in docs/compatibility.md.

``python tools/dev/compatibility.py .venv-tests/bin/python /other/env/bin/python``
runs the tests marked ``stack`` with each interpreter, whose environment has the
packages, pytest and pytest-xdist (rsd_mm is taken from this clone), and writes a row per set of
versions; other rows stay. ``-m "not slow"`` runs the default tests.
"""

import argparse
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'compatibility.md'
BEGIN, END = '<!-- Written by tools/dev/compatibility.py -->', '<!-- End of what it writes -->'
HEAD = ('Python', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'mmrazor', 'numpy', 'tests', 'result')

# Run in the other environment to print its versions.
VERSIONS = """
import importlib.metadata as metadata, json, platform
found = {'Python': platform.python_version()}
for column, names in json.loads(%r).items():
    found[column] = 'none'
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found[column] = version if name == column else f'{name} {version}'
        break
print(json.dumps(found))
"""
DISTRIBUTIONS = {
    'torch': ['torch'],
    'torchvision': ['torchvision'],
    'mmengine': ['mmengine', 'onedl-mmengine'],
    'mmcv': ['mmcv', 'mmcv-lite', 'onedl-mmcv'],
    'mmpretrain': ['mmpretrain', 'onedl-mmpretrain'],
    'mmrazor': ['mmrazor'],
    'numpy': ['numpy'],
}


def versions(python: str) -> Dict[str, str]:
    """Return the versions in an environment by column."""
    code = VERSIONS % json.dumps(DISTRIBUTIONS)
    return json.loads(subprocess.run([python, '-c', code], check=True, capture_output=True, text=True).stdout)


def run_tests(python: str, markers: str) -> str:
    """Run the tests that a marker expression selects; return pytest's counts and the failed tests."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = [python, '-m', 'pytest', '-q', '-rfE', '--color=no', '-m', markers]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout[-3000:])
    lines = done.stdout.strip().splitlines()
    failed = re.findall(r'^(?:FAILED|ERROR) \S*?(\w+\.py\S*)', done.stdout, re.MULTILINE)
    counts = re.sub(r' in [\d.]+s.*', '', lines[-1].strip('= '))
    return counts + (f': `{"`, `".join(failed)}`' if failed else '')


def rows_of_page(text: str) -> List[List[str]]:
    """Return the rows of the page's table."""
    table = text.split(BEGIN)[1].split(END)[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table[2:]]


def write(rows: List[List[str]]) -> None:
    """Replace the rows of the page's table."""
    lines = [HEAD, ['---'] * len(HEAD), *rows]
    table = '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
    text = PAGE.read_text()
    PAGE.write_text(f'{text.split(BEGIN)[0]}{BEGIN}\n\n{table}\n\n{END}{text.split(END)[1]}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('python', nargs='+', help='interpreters of the environments')
    parser.add_argument('-m', '--markers', default='stack', help='marker expression for pytest -m')
    args = parser.parse_args()
    for python in args.python:
        found = versions(python)
        row = [found[column] for column in HEAD[:-2]] + [f'`-m "{args.markers}"`', run_tests(python, args.markers)]
        rows = [other for other in rows_of_page(PAGE.read_text()) if other[:-1] != row[:-1]]
        write(sorted([*rows, row]))


if __name__ == '__main__':
    main()
