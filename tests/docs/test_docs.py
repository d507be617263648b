# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The docs build without warnings, and their messages, options, configs and links are right."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import rsd_mm
from rsd_mm.models.distillers.teacher import Teacher
from rsd_mm.models.reference import REFERENCE_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text()
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / 'docs').glob('*.md'))}


def test_it_builds_without_a_warning(tmp_path):
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-d', tmp_path / 'trees', ROOT / 'docs']
    done = subprocess.run([*command, tmp_path / 'html'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / 'html' / 'reference.html').read_text()
    # All public names, with their docstrings.
    for name in rsd_mm.__all__[:-3]:
        assert f'id="rsd_mm.{name}"' in page, name
    assert 'Weight of the decorrelation. Defaults to 0.01, the paper.' in page


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    sources = [path for folder in ('rsd_mm', 'tools') for path in (ROOT / folder).rglob('*.py')]
    text = '\n'.join(path.read_text() for path in sources)
    text = re.sub(r"""(['"])\s*\n\s*f?['"]""", '', text)  # strings over several lines
    own = PAGES['troubleshooting'].partition('## Messages of other packages')[0]
    messages = re.findall(r'^\| `(.+?)` \|', own, re.MULTILINE)
    assert len(messages) > 30
    assert [message for message in messages if message not in text] == []


def test_the_method_of_the_page_trains(tmp_path, monkeypatch):
    """The two files of docs/add_a_method.md, as they stand there."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for block in re.findall('```python\n(.*?)```', PAGES['add_a_method'], re.DOTALL):
        (tmp_path / block.splitlines()[0][2:]).write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'my_losses', raising=False)
    cfg = Config.fromfile(str(tmp_path / 'cosine_resnet_to_vit_digits.py'))
    cfg.model.teacher = dict(cfg_path=str(ROOT / 'configs/quickstart/resnet_digits.py'), allow_random_weights=True)
    cfg.train_dataloader.dataset.indices = 256
    cfg.train_cfg.update(max_epochs=5, val_interval=5)
    cfg.work_dir, cfg.randomness, cfg.log_level = str(tmp_path / 'work'), dict(seed=0), 'ERROR'
    runner = Runner.from_cfg(cfg)
    runner.train()
    keys = ('loss', 'loss_task', 'loss_cosine', 'cosine_similarity')
    total, task, cosine, similarity = (runner.message_hub.get_scalar(f'train/{key}').data[0] for key in keys)
    assert len(total) == 20
    assert cosine == pytest.approx(2 * (1 - similarity), rel=1e-4)
    assert total == pytest.approx(task + cosine, rel=1e-4)
    assert cosine[-1] < 0.5 * cosine[0]  # it learns


def options_in_the_docs():
    """Return the keys of ``--cfg-options`` (and of ``default_hooks.``...) that the pages name."""
    texts = [README, *PAGES.values()]
    return sorted(
        {
            key
            for text in texts
            for key in re.findall(r'(?<![\w.])((?:model|default_hooks|train_dataloader|randomness)(?:\.\w+)+)=', text)
        }
    )


@pytest.fixture(scope='module')
def pair():
    return Config.fromfile(str(ROOT / 'configs/rsd/swin-t_to_mobilenetv2_in1k.py'))


@pytest.mark.parametrize('key', options_in_the_docs())
def test_options_of_the_pages_exist(key, pair):
    """The option is in the config of a pair, or its owner takes it."""
    *path, name = key.split('.')
    part = pair
    for step in path:
        part = part[int(step)] if step.isdigit() else part.get(step, {})
    taken = set(part)
    if path == ['randomness']:
        taken |= set(inspect.signature(Runner.set_randomness).parameters)
    elif path == ['model', 'teacher']:
        taken |= {*REFERENCE_OPTIONS, *inspect.signature(Teacher).parameters}
    elif path == ['model', 'loss']:
        taken |= set(inspect.signature(rsd_mm.RSDLoss).parameters)
    elif path == ['model']:
        taken |= set(inspect.signature(rsd_mm.RSDDistiller).parameters)
    elif path == ['model', 'student', 'backbone']:
        taken |= set(inspect.signature(MODELS.get('mmpretrain.MobileNetV2')).parameters)
    elif path == ['train_dataloader']:
        taken |= set(inspect.signature(DataLoader).parameters)
    elif path[0] == 'default_hooks':
        taken |= set(inspect.signature(HOOKS.get(part['type'])).parameters)
    elif 'pipeline' in path:
        taken |= set(inspect.signature(rsd_mm.LoadCheckedImage).parameters)
    assert name in taken


@pytest.mark.parametrize('page', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_lead_to_files(page):
    """Of the pages that Sphinx does not read."""
    links = re.findall(r'\]\((?!https?:)([^)#]+)', (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_config_of_the_readme_is_the_file():
    block = re.search('```python\n(.*?)```', README, re.DOTALL)[1]
    config = (ROOT / 'configs/rsd/swin-t_to_mobilenetv2_in1k.py').read_text()
    assert ast.dump(ast.parse(block)) == ast.dump(ast.parse(config))


def test_the_citation_is_of_this_version_and_the_paper_of_the_readme():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == rsd_mm.__version__
    paper = citation['preferred-citation']
    bibtex = dict(re.findall(r'(\w+) += {(.*)}', README.partition('```bibtex')[2]))
    authors = ' and '.join(author['family-names'] for author in paper['authors'])
    assert (bibtex['title'], bibtex['author'], bibtex['year']) == (paper['title'], authors, str(paper['year']))


def test_pre_commit_pins_the_versions_of_the_tests():
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', (ROOT / 'requirements/constraints.txt').read_text(), re.MULTILINE))
    config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
    hooks = {hook['id']: hook for repo in config['repos'] for hook in repo['hooks']}
    assert {'ruff-format', 'ruff-check', 'mypy'} <= set(hooks)
    wanted = [text for hook in hooks.values() for text in hook.get('additional_dependencies', [])]
    assert len(wanted) >= 3
    for requirement in wanted:
        name, version = requirement.split('==')
        assert pins[name] == version
