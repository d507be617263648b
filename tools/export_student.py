# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The student of a training checkpoint, for use: ``python tools/export_student.py CONFIG CHECKPOINT``.

Writes a plain MMPretrain checkpoint and config, also of a training that is not at its end, and on request its backbone
alone, an ONNX file and a ``torch.export`` program. Each file is loaded again and compared with the model before the
tool is done.
"""

import argparse
import os
import os.path as osp
import re
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import nn
from tqdm import tqdm

from common.images import image_side
from common.launch import read_config
from rsd_mm.utils.checkpoint import CheckpointError
from rsd_mm.utils.export import export_student, load_exported, read_training_checkpoint

TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the student of a training checkpoint as files of its own')
    parser.add_argument('config', help='config of the training')
    parser.add_argument('checkpoint', help='checkpoint of the training')
    parser.add_argument('--out-dir', help='default: the folder of the checkpoint')
    parser.add_argument('--name', default='student', help='name of the files (default: student)')
    parser.add_argument(
        '--backbone-only', action='store_true', help='also NAME_backbone.pth, for detectors and the like'
    )
    parser.add_argument('--onnx', action='store_true', help='also NAME.onnx, checked with onnxruntime')
    parser.add_argument('--pt2', action='store_true', help='also NAME.pt2, a program of torch.export')
    parser.add_argument(
        '--side', type=int, help="side in pixels of --onnx's and --pt2's images (default: validation's)"
    )
    return parser.parse_args()


def compare(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= TOLERANCE:
        raise SystemExit(
            f'{name} differs from the model by {error:.1e} of the largest logit; {TOLERANCE:.0e} is allowed.'
        )
    tqdm.write(f'{name}: as the model to {error:.0e}')


def example(side: int, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def write_onnx(model: nn.Module, path: str, side: int) -> None:
    """Logits from normalized images ``(B, 3, H, W)``, for any B."""
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        raise SystemExit(f'--onnx needs torch >= 2.6, this is {torch.__version__}.')
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise SystemExit(
            f'--onnx needs packages that are not installed: pip install onnx onnxscript onnxruntime ({error})'
        ) from None
    torch.onnx.export(
        model,
        (example(side, 2),),
        path,
        input_names=['images'],
        output_names=['logits'],
        dynamic_shapes=({0: torch.export.Dim('batch')},),
        dynamo=True,
        external_data=False,
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for batch in (1, 3):
        images = example(side, batch)
        (logits,) = session.run(None, {'images': images.numpy()})
        compare(f'{path}, batch of {batch}', torch.from_numpy(logits), model(images))


def write_pt2(model: nn.Module, path: str, side: int) -> None:
    """A program of ``torch.export``: logits from normalized images ``(B, 3, H, W)``, for any B."""
    program = torch.export.export(model, (example(side, 2),), dynamic_shapes=({0: torch.export.Dim('batch')},))
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    for batch in (2, 3):
        images = example(side, batch)
        compare(f'{path}, batch of {batch}', loaded(images), model(images))


class Logits(nn.Module):
    """A classifier as a function of images alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images, mode='tensor')


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    folder = args.out_dir or osp.dirname(osp.abspath(args.checkpoint))
    os.makedirs(folder, exist_ok=True)
    try:
        state, metrics, meta = read_training_checkpoint(args.checkpoint)
        weights, config = export_student(cfg, state, folder, args.name, metrics, **meta)
    except CheckpointError as error:
        raise SystemExit(str(error)) from None
    print(f'Written: {weights} and {config}')
    if args.backbone_only:
        saved = torch.load(weights, weights_only=True)
        saved['state_dict'] = {key: value for key, value in saved['state_dict'].items() if re.match(r'backbone\.', key)}
        if not saved['state_dict']:
            raise SystemExit('--backbone-only: this student keeps no backbone apart (a model of timm, for example).')
        path = osp.join(folder, f'{args.name}_backbone.pth')
        torch.save(saved, path)
        print(f"Written: {path}; init_cfg=dict(type='Pretrained', checkpoint='{path}', prefix='backbone.')")
    model = Logits(load_exported(config, weights)).eval()
    with torch.no_grad():
        side = args.side or image_side(cfg)
        writers = dict(onnx=write_onnx, pt2=write_pt2)
        with tqdm([name for name in writers if getattr(args, name)], unit='file', disable=None) as bar:
            for name in bar:
                bar.set_description(f'{args.name}.{name}')
                writers[name](model, osp.join(folder, f'{args.name}.{name}'), side)


if __name__ == '__main__':
    main()
