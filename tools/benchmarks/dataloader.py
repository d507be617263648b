# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Benchmark the input pipeline: ``python tools/benchmarks/dataloader.py``.

Generates JPEG files of ImageNet's size, and reads them with the training pipeline of a config and variants of it.
"""

import argparse
import copy
import os
import os.path as osp
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from benchmarks.reporting import add_benchmark_arguments, parse_benchmark_arguments, report
from benchmarks.timing import measure
from common.arguments import CONFIGS
from common.configs import read_config

CONFIG = osp.join(CONFIGS, 'rsd', 'swin-t_to_mobilenetv2_in1k.py')
#: Settings of pipeline steps, by their type.
VARIANTS: Dict[str, Dict[str, Dict[str, str]]] = {
    "the config's": {},
    'decoded by Pillow': dict(LoadImageFromFile=dict(imdecode_backend='pillow')),
    'decoded by TurboJPEG': dict(LoadImageFromFile=dict(imdecode_backend='turbojpeg')),
    'resized by OpenCV': dict(RandomResizedCrop=dict(backend='cv2')),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Throughput of the input pipeline')
    parser.add_argument('config', nargs='?', default=CONFIG, help='any config that reads images from files')
    parser.add_argument('--images', type=int, default=256, help='files to generate (default: 256)')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--cores', type=int, default=16, help='extrapolate to this many (default: 16)')
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/dataloader.json')
    args = parse_benchmark_arguments(parser)
    if args.quick:
        args.images, args.workers, args.rounds = 32, [0, 1], min(args.rounds, 2)
    return args


def generate(folder: str, count: int) -> float:
    """Write JPEG files of 500 x 375 pixels with structure at every scale; return their mean size in bytes."""
    generator = np.random.default_rng(0)
    os.makedirs(osp.join(folder, 'class'))
    sizes = []
    for i in range(count):
        image = np.zeros((375, 500, 3))
        for cells, strength in ((4, 90), (16, 50), (64, 30), (200, 12)):
            noise = generator.normal(0, strength, (cells, cells, 3)).astype(np.float32)
            image += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        path = osp.join(folder, 'class', f'{i}.jpg')
        cv2.imwrite(path, np.clip(image + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
        sizes.append(osp.getsize(path))
    return float(np.mean(sizes))


def build_loader(cfg: Config, folder: str, workers: int, changes: Dict[str, Dict[str, str]], images: int) -> Any:
    """Return the training data loader of a config, with changes of its pipeline, for the files in a folder."""
    cfg = copy.deepcopy(cfg)
    pipeline = cfg.train_dataloader.dataset.pipeline
    for step in pipeline:
        step.update(changes.get(step.type, {}))
    cfg.train_dataloader.update(
        batch_size=min(cfg.train_dataloader.batch_size, images),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=dict(type='default_collate'),
    )
    cfg.train_dataloader.dataset = dict(type='CustomDataset', data_root=folder, pipeline=pipeline, _scope_='mmpretrain')
    return Runner.build_dataloader(cfg.train_dataloader, seed=0)


def epoch(batches: Any) -> Callable[[], Dict[str, Any]]:
    def run() -> Dict[str, Any]:
        *_, last = batches
        return last

    return run


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(0)  # As mmengine does: workers are the parallelism.
    cfg = read_config(args.config)
    variants = dict(VARIANTS)
    try:
        mmcv.use_backend('turbojpeg')  # Creates mmcv's decoder; imdecode_backend does not.
    except (ImportError, OSError, RuntimeError) as error:
        print(f'TurboJPEG is left out; it needs libturbojpeg and `pip install PyTurboJPEG` ({error}).')
        del variants['decoded by TurboJPEG']
    mmcv.use_backend('cv2')
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        size = generate(folder, args.images)
        print(f'{args.images} JPEG files of 500 x 375 pixels, {size / 1e3:.0f} KB on average\n')
        cases = [(name, 0) for name in variants] + [("the config's", count) for count in args.workers if count]
        loaders = {case: build_loader(cfg, folder, case[1], variants[case[0]], args.images) for case in cases}
        runs = {f'{name}, {workers}': epoch(batches) for (name, workers), batches in loaders.items()}
        inputs = next(iter(runs.values()))()['inputs']
        seconds = measure(runs, args.rounds)
        for name, workers in cases:
            batches = loaders[name, workers]
            rate = len(batches) * batches.batch_size / seconds[f'{name}, {workers}']
            rows.append(dict(pipeline=name, workers=workers, images_per_second=rate, inputs=str(inputs.dtype)))
            rows[-1]['over_config'] = rate / rows[0]['images_per_second']
            rows[-1]['extrapolated'] = None if workers else args.cores * rate
    columns = dict(
        pipeline=('pipeline', ''),
        workers=('workers', ''),
        images_per_second=('images/s', '.0f'),
        over_config=("/ the config's in one process", '.2f'),
        extrapolated=(f'x {args.cores} cores (extrapolated), images/s', '.0f'),
        inputs=('sent to the device as', ''),
    )
    report(args.out, 'cpu', columns, rows)


if __name__ == '__main__':
    main()
