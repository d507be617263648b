# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A training step: plain, the teacher's forward, distilled, with every option: ``python tools/benchmarks/step.py``."""

import argparse
import copy
import functools
import logging
import os.path as osp
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, of which this script uses modules

from benchmarks.timing import (
    STEP_COLUMNS,
    STEP_PARTS,
    add_benchmark_arguments,
    measure_steps,
    parse_benchmark_arguments,
    profile_steps,
    random_batch,
    report,
    training_step,
)
from common.cost import count_parameters
from common.images import image_side
from common.launch import build_with_random_weights, check_distillation, read_config
from common.methods import student_alone

CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..', 'configs')
FLAGSHIP = osp.join(CONFIGS, 'rsd', 'swin-t_to_mobilenetv2_in1k.py')
SMALL = osp.join(CONFIGS, 'quickstart', 'resnet_to_vit_digits.py')
#: What can be switched on in a config, by what it is called in the tables.
OPTIONS: Dict[str, Dict[str, Any]] = {
    'teacher in bfloat16': {'model.teacher.precision': 'bfloat16'},
    'teacher in float16': {'model.teacher.precision': 'float16'},
    'teacher channels-last': {'model.teacher.channels_last': True},
    'student channels-last': {'model.channels_last': True},
    'teacher compiled': {'model.teacher.compile': True},
    'student and loss compiled': {'model.compile': True},
    'fused optimizer': {'optim_wrapper.optimizer.fused': True},
    'checkpointed student': {'model.student.backbone.with_cp': True},
}
PLAIN, TEACHER, DISTILLED = 'plain student', "teacher's forward", 'distilled'
VALIDATION = 'validation'
APART = 'plain + teacher apart'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time and memory of a training step with random images and weights')
    parser.add_argument('config', nargs='?', help='config of a distillation (default: Swin-T to MobileNetV2)')
    parser.add_argument('--batches', type=int, nargs='+', help='default: 16 on a CPU, 64 and 256 on a GPU')
    parser.add_argument(
        '--options', nargs='*', help=f'default: all but compilation and half precision; known: {", ".join(OPTIONS)}'
    )
    parser.add_argument(
        '--profile', action='store_true', help='tell where the time of a step goes instead; options only as named'
    )
    parser.add_argument('--amp', choices=['float16', 'bfloat16'], help="AmpOptimWrapper's dtype; needs an accelerator")
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/step.json')
    args = parse_benchmark_arguments(parser)
    args.config = args.config or (SMALL if args.quick else FLAGSHIP)
    args.batches = args.batches or ([16] if args.quick or args.device == 'cpu' else [64, 256])
    if args.options is None:
        args.options = (
            [] if args.profile else [name for name in OPTIONS if 'compiled' not in name and 'float' not in name]
        )
    for name in args.options:
        if name not in OPTIONS:
            parser.error(f'--options: there is no {name!r}. There are: {", ".join(map(repr, OPTIONS))}.')
    if args.amp and args.device == 'cpu':
        parser.error('--amp: automatic mixed precision needs an accelerator, and none is visible. Leave it out.')
    return args


def steps(cfg: Config, batch: int, args: argparse.Namespace) -> Tuple[Dict[str, Callable[[], Any]], int]:
    """What is timed, by name, and the bytes of the teacher's weights."""
    torch.manual_seed(0)
    distiller = build_with_random_weights(copy.deepcopy(cfg))
    plain = MODELS.build(student_alone(cfg).model)
    data = random_batch(plain, batch, image_side(cfg), args.device)

    def step_of(model: Any, cfg: Config) -> Callable[[], Any]:
        amp = dict(type='AmpOptimWrapper', dtype=args.amp, loss_scale='dynamic') if args.amp else {}
        return training_step(model, {**cfg.optim_wrapper, **amp}, data, args.device)

    trained = step_of(distiller, cfg)  # which moves it to the device
    images = distiller.data_preprocessor(copy.deepcopy(data), True)['inputs']
    dtype = getattr(torch, args.amp) if args.amp else None

    def look() -> None:
        with torch.autocast(torch.device(args.device).type, dtype, enabled=dtype is not None):
            distiller.teacher(images, distiller._teacher_taps)

    validated = copy.deepcopy(plain).to(args.device).eval()
    validate = torch.no_grad()(functools.partial(validated.val_step, data))
    found: Dict[str, Callable[[], Any]] = {PLAIN: step_of(plain, cfg), VALIDATION: validate, TEACHER: look}
    found[DISTILLED] = trained
    for name in args.options:
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict(OPTIONS[name])
        try:
            found[name] = step_of(build_with_random_weights(changed), changed)
        except ValueError as error:
            print(f'{name}: left out, since {error}')
    return found, 4 * count_parameters(distiller.teacher.model)


def compare(cfg: Config, batch: int, args: argparse.Namespace) -> List[Dict[str, Any]]:
    functions, weights = steps(cfg, batch, args)
    measured = measure_steps(functions, batch, args.rounds, args.device)
    plain = measured[PLAIN]['ms']
    taught = plain + measured[TEACHER]['ms']
    return [
        dict(
            row,
            step=name,
            over_plain=row['ms'] / plain,
            over_sum=None if name in (PLAIN, VALIDATION, TEACHER) else row['ms'] / taught,
            teacher_weights_mb=weights / 2**20,
        )
        for name, row in measured.items()
    ]


def profile(cfg: Config, batch: int, args: argparse.Namespace) -> List[Dict[str, Any]]:
    functions, _ = steps(cfg, batch, args)
    del functions[VALIDATION]
    look = functions.pop(TEACHER)
    measured = profile_steps(functions, look, args.rounds, args.device)
    apart, distilled = measured.pop(PLAIN), measured[DISTILLED]
    return [
        dict(
            batch=batch,
            part=part,
            **{f'{APART}, ms': 1e3 * apart[part]},
            **{f'{name}, ms': 1e3 * seconds[part] for name, seconds in measured.items()},
            share=100 * distilled[part] / distilled['whole step'],
        )
        for part in (*STEP_PARTS, 'whole step')
    ]


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)  # building tells of random weights
    cfg = read_config(args.config)
    check_distillation(cfg, args.config)
    try:
        rows = [row for batch in args.batches for row in (profile if args.profile else compare)(cfg, batch, args)]
    except ValueError as error:
        sys.exit(f'{args.config!r}: {error}')
    columns: Dict[str, Tuple[str, str]] = dict(batch=('batch', ''))
    if args.profile:
        columns['part'] = ('part', '')
        columns.update({name: (name, '.1f') for name in rows[0] if name.endswith(', ms')})
        columns['share'] = (f'% of {DISTILLED}', '.1f')
    else:
        columns.update(
            step=('step', ''),
            **STEP_COLUMNS,
            over_plain=('/ plain', '.3f'),
            over_sum=('/ (plain + teacher)', '.3f'),
            peak_mb=('peak of a step beyond the weights, MB', '.0f'),
        )
    report(args.out, args.device, columns, rows)


if __name__ == '__main__':
    main()
