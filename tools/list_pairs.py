# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Count parameters and FLOPs of pairs: ``python tools/list_pairs.py [CONFIG ...]``.

Pairs are built with random weights; nothing is downloaded. FLOPs are the multiply-adds of one image, as in
MMPretrain's tables.
"""

import argparse
import json
import os.path as osp
from glob import glob
from typing import Dict, List

from mmengine.config import Config

from common.arguments import CONFIGS, name_of
from common.configs import build_with_random_weights, hide_warnings, image_side
from common.cost import count_distillation


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Count parameters and FLOPs of distillations')
    parser.add_argument('configs', nargs='*', help='configs of distillations (default: those of configs/rsd)')
    parser.add_argument('--json', action='store_true', help='print exact numbers as JSON instead of a table')
    return parser.parse_args()


def count(path: str) -> Dict[str, int]:
    cfg = Config.fromfile(path)
    return count_distillation(build_with_random_weights(cfg).eval(), image_side(cfg))


def print_pairs(paths: List[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(config=name_of(path), **count(path)) for path in paths], indent=2))
        return
    print('| config | student, M | student, GFLOPs | training only, M | teacher, M | teacher, GFLOPs |')
    print('| --- | --- | --- | --- | --- | --- |')
    keys = ('student_params', 'student_flops', 'training_only_params', 'teacher_params', 'teacher_flops')
    for path in paths:
        counts = count(path)
        cells = [counts[key] / (1e9 if key.endswith('flops') else 1e6) for key in keys]
        print(f'| {name_of(path)} | {" | ".join(f"{cell:.2f}" for cell in cells)} |', flush=True)


def main() -> None:
    args = parse_args()
    hide_warnings()
    try:
        print_pairs(args.configs or sorted(glob(osp.join(CONFIGS, 'rsd', '*.py'))), args.json)
    except ValueError as error:
        raise SystemExit(f'list_pairs: {error}') from None


if __name__ == '__main__':
    main()
