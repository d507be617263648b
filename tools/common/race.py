# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The models of a race: their configs, what differs between them, and their runs."""

import argparse
import copy
import os.path as osp
from typing import Any, Dict, List, Sequence, Tuple

from mmengine.analysis import parameter_count
from mmengine.config import Config
from mmengine.registry import MODELS

from common.arguments import ALONE, name_of
from common.configs import read_config, scale_schedule
from common.jobs import Run
from common.methods import student_alone, with_method

#: What has to be the same for every model of a race.
SHARED = ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr')


def load_models(args: argparse.Namespace) -> Dict[str, Config]:
    """Return the configs by name; the first is what the others are compared with.

    Raises:
        SystemExit: If the arguments do not name the models of a race.
    """
    configs = {name_of(path): _read_config(path, args) for path in args.configs}
    if len(configs) < len(args.configs):
        raise SystemExit('Two of the configs have the same name; rename one.')
    if args.methods:
        (pair,) = configs.values()
        if 'student' not in pair.model:
            raise SystemExit(f'--methods needs the config of a distillation, and {args.configs[0]!r} is not one.')
        methods = {name: with_method(pair, name) for name in args.methods if name != ALONE}
        return {ALONE: student_alone(pair), **methods}
    baselines = [name for name, cfg in configs.items() if 'student' not in cfg.model]
    if not baselines:
        return {ALONE: student_alone(next(iter(configs.values()))), **configs}
    return {baselines[0]: configs[baselines[0]], **configs}


def _read_config(path: str, args: argparse.Namespace) -> Config:
    cfg = read_config(path, args.cfg_options)
    if args.epochs:
        if not cfg.train_cfg.get('max_epochs'):
            raise SystemExit(f'--epochs: {path!r} trains by iterations. Set train_cfg.max_iters with --cfg-options.')
        scale_schedule(cfg, args.epochs)
    # Save the last checkpoint, and a few on the way to resume from.
    hook = dict(
        type='AtomicCheckpointHook',
        interval=max(1, _length(cfg) // 10),
        by_epoch='max_epochs' in cfg.train_cfg,
        max_keep_ckpts=1,
        save_last=True,
    )
    cfg.merge_from_dict(dict(default_hooks=dict(checkpoint=dict(hook, _delete_=True))))
    return cfg


def _length(cfg: Config) -> int:
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters


def list_differences(models: Dict[str, Config]) -> List[str]:
    """Return what makes the race unfair, as ``MODEL: FIELD``."""
    first, *others = models
    baseline = models[first]
    ignored = dict(data_preprocessor=None, _scope_=None)
    differences = []
    for name in others:
        cfg = models[name]
        differences += [f'{name}: {field}' for field in SHARED if cfg.get(field) != baseline.get(field)]
        if 'student' in cfg.model and {**student_alone(cfg).model, **ignored} != {**baseline.model, **ignored}:
            differences.append(f'{name}: student')
    return differences


def count_extra_parameters(
    models: Dict[str, Config], droppable: Sequence[str]
) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Count the parameters that only training has, by building the models.

    Args:
        models (Dict[str, Config]): The configs by name.
        droppable (Sequence[str]): Models that the race does without if they cannot be built.

    Returns:
        Tuple[Dict[str, int], Dict[str, str]]: The counts, and the reasons of those that cannot be built, by name.

    Raises:
        SystemExit: If another model, or every droppable one, cannot be built.
    """
    counts: Dict[str, int] = {}
    left_out: Dict[str, str] = {}
    for name, cfg in models.items():
        model = copy.deepcopy(cfg.model)
        if 'data_preprocessor' in cfg:
            model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        try:
            built: Any = MODELS.build(model)
        except Exception as error:
            left_out[name] = str(error)
            if name not in droppable or left_out.keys() >= set(droppable):
                raise SystemExit(f'{name} cannot be built, so nothing was started. {error}') from error
            continue
        counts[name] = parameter_count(built.terms)[''] if hasattr(built, 'terms') else 0
    return counts, left_out


def plan_runs(models: Dict[str, Config], seeds: int, work_dir: str) -> List[Run]:
    """Return the runs seed by seed, so that an interrupted race already compares all models.

    Raises:
        SystemExit: If the work dir holds a run with another config.
    """
    texts = {name: cfg.pretty_text for name, cfg in models.items()}
    runs = []
    for seed in range(seeds):
        for model, cfg in models.items():
            name = f'{model}_seed{seed}'
            path = osp.join(work_dir, 'configs', f'{name}.py')
            text = f'{texts[model]}randomness = {dict(cfg.get("randomness", {}), seed=seed)}\n'
            if osp.isfile(path):
                with open(path, encoding='utf-8') as file:
                    if file.read() != text:
                        raise SystemExit(
                            f'{work_dir!r} holds a race whose {name} has another config ({path}). Repeat the same '
                            'command to resume it, use another --work-dir for another race, or delete it.'
                        )
            runs.append(Run(model, seed, osp.join(work_dir, name), path, text, _length(cfg)))
    return runs
