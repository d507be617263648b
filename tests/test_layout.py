# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The rules of docs/design.md: short modules, imports that run downward, no circles."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob('rsd_mm/**/*.py'), *ROOT.glob('tools/**/*.py')])
#: A room may import from those before it.
ROOMS = ('utils', 'models', 'visualization', 'engine', 'tools')
#: Rooms that import nothing of the package, and the roots, which import from everywhere.
LEAVES = ('datasets', 'compat', 'version', 'dependencies')
LINES = 300


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(module, within_functions=False):
    """The modules of this repository that a module imports, at the top level or everywhere."""
    found, tree = set(), ast.parse(MODULES[module].read_text())
    package = module.split('.') if MODULES[module].name == '__init__.py' else module.split('.')[:-1]
    for node in ast.walk(tree) if within_functions else tree.body:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = '.'.join([*base, *([node.module] if node.module else [])])
            found |= {source, *(f'{source}.{name.name}' for name in node.names)}
    # Scripts have tools/ on their path.
    return {name for name in found | {f'tools.{name}' for name in found} if name in MODULES and name != module}


def room_of(module):
    parts = module.split('.')
    return parts[0] if parts[0] == 'tools' else parts[1] if len(parts) > 1 else ''


def test_modules_are_short():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > LINES} == {}


def test_imports_run_downward():
    upward = []
    for module in filter(room_of, MODULES):
        room = room_of(module)
        allowed = {room} if room in LEAVES else {*ROOMS[: ROOMS.index(room) + 1], *LEAVES}
        if room == 'tools':
            allowed.add('')  # the package as a user imports it
        imported = imports_of(module, within_functions=True)
        upward += [f'{module} imports {other}' for other in imported if room_of(other) not in allowed]
    assert upward == []


def test_there_are_no_circles():
    graph = {module: imports_of(module) for module in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, ' -> '.join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for imported in graph[module]:
                visit(imported)
            path.pop()
            done.add(module)

    for module in MODULES:
        visit(module)


def test_the_rules_find_what_they_forbid():
    assert {'rsd_mm.models.taps', 'rsd_mm.utils.checks'} <= imports_of('rsd_mm.models.distillers.teacher')
    assert 'rsd_mm.models.distillers.term' in imports_of('rsd_mm.models.distillers.distiller')
    assert 'tools.common.launch' in imports_of('tools.train')
