# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Test a student: ``python tools/test.py CONFIG CHECKPOINT``.

Config and checkpoint may be of a distillation or of the plain student. Only the
student is built, so no teacher is needed.
"""

import argparse
from typing import Dict

import mmengine
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from common.launch import add_run_arguments, keep_test_only, load_config, run_distributed
from rsd_mm.utils.checkpoint import load_strictly
from rsd_mm.utils.config import student_config, unwrap


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a student')
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a distillation or of the plain student')
    parser.add_argument('--out', help='write results to this file (.pkl, .json or .yml)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], help='what --out writes (default: the predictions)')
    parser.add_argument('--show-dir', help='folder for images with their predictions')
    parser.add_argument('--show', action='store_true', help='show images with their predictions')
    parser.add_argument('--interval', type=int, default=1, help='draw every n-th image (default: 1)')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per image of --show (default: 2)')
    args = parser.parse_args()
    if args.out_item is not None and args.out is None:
        parser.error('--out-item selects what --out writes: give --out FILE as well.')
    return args


def build_config(args: argparse.Namespace) -> Config:
    cfg = load_config(args)
    cfg.model = student_config(cfg)
    if args.show or args.show_dir is not None:
        cfg.default_hooks.visualization.update(
            enable=True,
            show=args.show,
            wait_time=args.wait_time,
            out_dir=args.show_dir,
            interval=args.interval,
        )
    keep_test_only(cfg, args)
    return cfg


def main() -> None:
    args = parse_args()
    cfg = build_config(args)

    def test() -> Dict[str, float]:
        runner = Runner.from_cfg(cfg)
        load_strictly(unwrap(runner.model), args.checkpoint, 'student')
        if args.out and args.out_item != 'metrics':
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        return runner.test()

    metrics = run_distributed(cfg, test)
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    main()
