# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Classify images with an exported student: ``python tools/predict.py STUDENT.py STUDENT.pth IMAGE_OR_FOLDER``.

Prints the most likely classes of an image, or of every image in a folder.
"""

import argparse
import os
import os.path as osp
from typing import List

from mmengine.config import Config
from mmpretrain import ImageClassificationInferencer

from common.arguments import positive_int
from rsd_mm.utils.config import gives_bgr

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.pgm', '.tif', '.tiff')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Classify images with an exported student')
    parser.add_argument('config', help='the exported config, student.py')
    parser.add_argument('checkpoint', help='the exported weights, student.pth')
    parser.add_argument('images', help='an image, or a folder of images')
    parser.add_argument('--topk', type=positive_int, default=5, help='classes to print per image (default: 5)')
    parser.add_argument('--batch-size', type=positive_int, default=32, help='default: 32')
    parser.add_argument('--device', help='e.g. cuda:0 (default: the CPU)')
    args = parser.parse_args()
    for path in (args.config, args.checkpoint, args.images):
        if not osp.exists(path):
            parser.error(f'{path!r} does not exist (looked in {osp.abspath(path)!r}).')
    return args


def list_images(path: str) -> List[str]:
    """Return the image, or those in a folder and its subfolders, sorted."""
    if osp.isfile(path):
        return [path]
    files = [osp.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    images = sorted(file for file in files if file.lower().endswith(EXTENSIONS))
    if not images:
        raise SystemExit(f'{path!r} contains no images ({", ".join(EXTENSIONS)}).')
    return images


def main() -> None:
    args = parse_args()
    images = list_images(args.images)
    cfg = Config.fromfile(args.config)
    if gives_bgr(cfg) is False:
        # The student was trained on RGB arrays; image files are read as BGR.
        cfg.data_preprocessor.to_rgb = not cfg.data_preprocessor.get('to_rgb', False)
    inferencer = ImageClassificationInferencer(cfg, args.checkpoint, device=args.device)
    names = inferencer.classes
    for image, result in zip(images, inferencer(images, batch_size=args.batch_size)):
        scores = result['pred_scores']
        print(image)
        for label in scores.argsort()[::-1][: args.topk]:
            name = names[label] if names else f'class {label}'
            print(f'  {100 * scores[label]:5.1f} %  {name}')


if __name__ == '__main__':
    main()
