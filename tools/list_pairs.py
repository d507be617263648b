# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What pairs there are, and what they cost: ``python tools/list_pairs.py [CONFIG ...]``.

Builds every pair (nothing is downloaded, weights are random) and counts: parameters of student, teacher and of what
only training needs, and the multiply-adds of one image, which MMPretrain's tables call FLOPs.
"""

import argparse
import json
import logging
import os.path as osp
from glob import glob
from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.logging import MMLogger

from common.cost import count_distillation
from common.images import image_side
from common.launch import build_with_random_weights

PAIRS = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs', 'rsd', '*.py')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Count parameters and FLOPs of distillations')
    parser.add_argument('configs', nargs='*', help='config files of distillations (default: those of configs/rsd)')
    parser.add_argument('--json', action='store_true', help='print exact numbers as JSON instead of a table')
    return parser.parse_args()


def count(path: str) -> Dict[str, Any]:
    """Parameters and multiply-adds of a pair."""
    cfg = Config.fromfile(path)
    model = build_with_random_weights(cfg).eval()
    return dict(config=osp.splitext(osp.basename(path))[0], **count_distillation(model, image_side(cfg)))


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('mmengine', log_level='ERROR')
    logging.disable(logging.WARNING)  # building tells of random weights, and counting of what it does not count
    paths = args.configs or sorted(glob(PAIRS))
    try:
        show(paths, args.json)
    except ValueError as error:
        raise SystemExit(f'list_pairs: {error}') from None


def show(paths: List[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps([count(path) for path in paths], indent=2))
        return
    print('| config | student, M | student, GFLOPs | training only, M | teacher, M | teacher, GFLOPs |')
    print('| --- | --- | --- | --- | --- | --- |')
    for path in paths:
        row = count(path)
        keys = ('student_params', 'student_flops', 'training_only_params', 'teacher_params', 'teacher_flops')
        cells = [row[key] / (1e9 if key.endswith('flops') else 1e6) for key in keys]
        print(f'| {row["config"]} | {" | ".join(f"{cell:.2f}" for cell in cells)} |', flush=True)


if __name__ == '__main__':
    main()
