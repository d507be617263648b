# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The commands of the pages: a test runs each at reduced size (or ELSEWHERE says why none does), and options exist."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md'), *ROOT.glob('configs/*/README.md')]
STARTS = r'(?:\w+=\S+ )*(?:\.venv[\w-]*/bin/|python3? |pip |mim |pre-commit |sphinx-build |\.ci/|tools/\S+\.sh \S)'

RUNS = 'tests/tools/test_train_and_test.py'
PAIRS = 'tests/tools/test_make_pair.py'
#: Pattern of commands: the test that runs such a command.
TESTED = {
    r'.*python tools/quickstart.py': (
        'tests/tools/test_quickstart.py::test_prints_a_table_and_writes_a_summary_and_a_picture'
    ),
    r'(\S*/)?python tools/train.py (CONFIG|configs/\S+|\w+_teacher.py)( --(work-dir \S+|resume|no-validate))?': (
        f'{RUNS}::test_train_resume_and_test'
    ),
    r'python tools/train.py CONFIG --auto-scale-lr --cfg-options train_dataloader.batch_size=128': (
        f'{RUNS}::test_options_that_users_know'
    ),
    r'python tools/train.py CONFIG --cfg-options model.loss.kappa=0.02': f'{RUNS}::test_unknown_option',
    r'python tools/train.py CONFIG --amp': 'tests/engine/test_mmengine_features.py::test_amp_on_a_gpu',
    r'python tools/train.py convnext-tiny_32xb128_in1k_flowers.py': f'{PAIRS}::test_a_teacher_that_is_fine_tuned_first',
    r'python tools/train.py flowers.py': f'{PAIRS}::test_a_folder_of_images_trains_as_it_is',
    r'PYTHONPATH=. python tools/(train|compare).py .*cosine_\S+.py( --seeds 3)?': (
        'tests/docs/test_commands.py::test_a_method_of_ones_own_by_the_tools'
    ),
    r'python tools/test.py (CONFIG|PAIR) \S+': f'{RUNS}::test_train_resume_and_test',
    r'python tools/check_teacher.py (CONFIG|PAIR|flowers.py)': f'{RUNS}::test_check_teacher',
    r'tools/dist_train.sh CONFIG [28]( --resume --amp)?': f'{RUNS}::test_two_processes_without_a_gpu',
    r'tools/dist_test.sh CONFIG CHECKPOINT 8': f'{RUNS}::test_two_processes_without_a_gpu',
    r'NNODES=2 NODE_RANK=[01] MASTER_ADDR=host tools/dist_train.sh CONFIG 8': (
        'tests/tools/test_several_nodes.py::test_two_nodes'
    ),
    r'GPUS=\d+ (GPUS_PER_NODE=8 )?tools/slurm_(train|test).sh PARTITION JOB_NAME CONFIG (WORK_DIR|CHECKPOINT)': (
        f'{RUNS}::test_slurm_scripts_call_srun'
    ),
    r'tools/dist_train.sh configs/.*': 'tests/configs/test_configs.py::test_trains_and_validates',
    r'python tools/make_pair.py .* --finetune-teacher': f'{PAIRS}::test_a_teacher_that_is_fine_tuned_first',
    r'python tools/list_pairs.py.*': 'tests/docs/test_commands.py::test_list_pairs_prints_what_the_page_shows',
    r'python tools/compare.py (CONFIG|PAIR|flowers.py|\S+_to_\S+.py) .*--methods .*': (
        'tests/tools/test_compare.py::test_result'
    ),
    r'python tools/compare.py CONFIG OTHER_CONFIG': (
        'tests/tools/test_compare.py::test_a_run_that_fails_does_not_end_the_others'
    ),
    r'python tools/export_student.py (CONFIG|PAIR) .*': (
        'tests/tools/test_export_student.py::test_onnx_and_torch_export'
    ),
    r'python tools/predict.py .*': 'tests/tools/test_export_student.py::test_predict',
    r'python tools/analysis/curves.py .*': 'tests/tools/test_analysis.py::test_curves_of_a_run_that_was_resumed',
    r'python tools/analysis/similarity.py .*': 'tests/tools/test_analysis.py::test_similarity',
    r'python tools/analysis/embedding.py .*': 'tests/tools/test_analysis.py::test_embedding',
    r'python tools/benchmarks/loss.py': 'tests/tools/test_benchmarks.py::test_loss',
    r'python tools/benchmarks/step.py': 'tests/tools/test_benchmarks.py::test_step',
    r'python tools/benchmarks/dataloader.py': 'tests/tools/test_benchmarks.py::test_dataloader',
    r'python tools/analysis/cost.py .*': 'tests/tools/test_benchmarks.py::test_cost',
    r'python tools/dev/compatibility.py .*': 'tests/tools/test_compatibility.py::test_rows_are_read_and_written_back',
    r'python tools/dev/draw_method.py': 'tests/docs/test_commands.py::test_the_picture_is_the_one_that_the_tool_draws',
    r'pip install -e ".\[mm,docs\]" .* sphinx-build -W docs docs/_build': (
        'tests/docs/test_docs.py::test_it_builds_without_a_warning'
    ),
}
#: Pattern of commands that no test runs: why.
ELSEWHERE = {
    r'python3 -m venv .venv-tests .* && .venv-tests/bin/pytest': 'what .ci/run runs, word for word',
    r'python3 -m venv .venv && .*': 'as the line above, which .ci/run runs in a fresh environment, with one extra less',
    r'.venv-tests/bin/(pytest|ruff) .*': 'how the tests themselves are run; .ci/run has the last two',
    r'.ci/run': 'runs the tests',
    r'pre-commit install': 'changes the clone; test_docs.py compares the versions that it installs',
    r'pip install( -e .| mmcv| mmrazor==1.0.0| "setuptools<82"| "numpy<2")?': 'pip with a package index',
    r'mim (train|test) mmpretrain CONFIG': 'tests/tools/test_mmpretrain_tools.py runs the tools that it calls',
    r'python tools/NAME.py': 'a pattern of names',
}


def commands():
    """Return the lines of bash blocks, and what starts like a command in running text or a table."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        for language, block in re.findall(r'```(\w*)\n(.*?)```', text, re.DOTALL):
            if language == 'bash':
                lines = (re.sub(' +# .*', '', line) for line in block.splitlines())
                found.update(dict.fromkeys(filter(None, lines)))
        text = re.sub(r'```.*?```', '', text, flags=re.DOTALL).replace('\n', ' ')
        found.update(dict.fromkeys(code for code in re.findall(r'`([^`]+)`', text) if re.match(STARTS, code)))
    return list(found)


COMMANDS = commands()


@pytest.mark.parametrize('command', COMMANDS)
def test_a_test_runs_it(command):
    entries = [where for pattern, where in {**TESTED, **ELSEWHERE}.items() if re.fullmatch(pattern, command)]
    assert entries, f'no test runs it: {command}. Add one, and an entry to TESTED.'


def test_every_entry_is_of_a_command():
    for pattern in (*TESTED, *ELSEWHERE):
        assert any(re.fullmatch(pattern, command) for command in COMMANDS), pattern


@pytest.mark.parametrize('test', sorted(set(TESTED.values())))
def test_the_test_exists(test):
    path, name = test.split('::')
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    assert name in [node.name for node in nodes if isinstance(node, ast.FunctionDef)]


def tool_calls():
    """Return the tools that the commands run, with their arguments; launchers pass on theirs."""
    text = '\n'.join(COMMANDS).replace(' && ', '\n')
    text = re.sub(r'tools/dist_(train|test)\.sh (.*?) \d+\b', r'python tools/\1.py \2', text)
    return list(dict.fromkeys(re.findall(r'python (tools/(?!NAME|dev/)\S+\.py .*)', text)))


@pytest.mark.parametrize('call', tool_calls())
def test_the_tool_takes_the_arguments(call, tmp_path, monkeypatch):
    path, *arguments = shlex.split(call)
    spec = importlib.util.spec_from_file_location('tool', ROOT / path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)
    for argument in arguments:  # some tools check that files exist
        if not argument.startswith('-'):
            (tmp_path / argument).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / argument).touch()
    monkeypatch.setattr(sys, 'argv', [path, *arguments])
    tool.parse_args()


@pytest.mark.parametrize('command', [c for c in COMMANDS if re.match(r'\w+=.*tools/\S+\.sh', c)])
def test_the_launcher_passes_the_variables_on(command, tmp_path):
    """With stand-ins for python and srun that print their arguments."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/usr/bin/env bash\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    names = re.findall(r'(\w+)=', command)
    values = {name: str(71 + i) for i, name in enumerate(names)}
    env = {**os.environ, **values, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    launcher = command.split()[len(names) :]
    printed = subprocess.run(launcher, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    assert [name for name in names if not re.search(rf'[=:]{values[name]}\b', printed)] == []


def test_list_pairs_prints_what_the_page_shows(run_tool):
    config = 'configs/rsd/swin-t_to_resnet18_in1k.py'
    row = run_tool('list_pairs.py', config, cwd=ROOT).stdout.splitlines()[-1]
    assert row.startswith('| swin-t_to_resnet18_in1k |')
    assert row in (ROOT / 'docs/tools.md').read_text()


def test_the_picture_is_the_one_that_the_tool_draws(run_tool, tmp_path):
    run_tool('dev/draw_method.py', tmp_path / 'method.svg', cwd=ROOT)
    drawn, kept = ((path / 'method.svg').read_text() for path in (tmp_path, ROOT / 'docs/images'))
    # Compare parts, texts and colors; glyphs depend on the fonts that matplotlib finds.
    drawn, kept = (re.findall(r'id="\w+"|<!-- .* -->|fill: #\w+', text) for text in (drawn, kept))
    assert '<!-- training only -->' in kept
    assert drawn == kept


@pytest.mark.slow
def test_a_method_of_ones_own_by_the_tools(run_tool, tmp_path):
    """The commands of docs/add_a_method.md, in a folder with that page's files."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for block in re.findall('```python\n(.*?)```', (ROOT / 'docs/add_a_method.md').read_text(), re.DOTALL):
        (tmp_path / block.splitlines()[0][2:]).write_text(block)
    teacher, pair, own = (
        f'{name}.py' for name in ('resnet_digits', 'resnet_to_vit_digits', 'cosine_resnet_to_vit_digits')
    )
    short = ['--cfg-options', 'train_dataloader.dataset.indices=128']
    environment = dict(env=dict(PYTHONPATH=f'{tmp_path}:{ROOT}'), cwd=tmp_path)
    work = ['--work-dir', 'work_dirs/quickstart/resnet_digits']
    run_tool('train.py', f'configs/quickstart/{teacher}', *work, *short, **environment)
    out = run_tool('train.py', own, *short, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', **environment).stdout
    assert re.search(r'loss_cosine: \d.* cosine_similarity: -?\d', out)
    race = ['--seeds', '1', '--epochs', '1', *short]
    out = run_tool('compare.py', f'configs/quickstart/{pair}', own, *race, **environment).stdout
    assert re.search(r'\| cosine_resnet_to_vit_digits +\| \d', out)
