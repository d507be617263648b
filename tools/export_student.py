# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Export the student of a training checkpoint: ``python tools/export_student.py CONFIG CHECKPOINT``.

Writes a plain MMPretrain checkpoint and config and, on request, the backbone alone, an ONNX file and a
``torch.export`` program. Each file is loaded again and compared with the model.
"""

import argparse
import os
import os.path as osp
from typing import Any

import torch
from mmengine.utils import digit_version
from torch import nn
from tqdm import tqdm

from common.configs import image_side, read_config
from rsd_mm.engine.export import export_student, load_exported, read_training_checkpoint
from rsd_mm.utils.checkpoint import CheckpointError

TOLERANCE = 1e-4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Export the student of a training checkpoint')
    parser.add_argument('config', help='config of the training')
    parser.add_argument('checkpoint', help='checkpoint of the training')
    parser.add_argument('--out-dir', help='default: the folder of the checkpoint')
    parser.add_argument('--name', default='student', help='name of the files (default: student)')
    parser.add_argument('--backbone-only', action='store_true', help='also write NAME_backbone.pth, e.g. for detectors')
    parser.add_argument('--onnx', action='store_true', help='also write NAME.onnx, checked with onnxruntime')
    parser.add_argument('--pt2', action='store_true', help='also write NAME.pt2, a torch.export program')
    parser.add_argument(
        '--side', type=int, help='image side in pixels for --onnx and --pt2 (default: that of the tests)'
    )
    return parser.parse_args()


def check_logits(name: str, logits: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= TOLERANCE:
        raise SystemExit(
            f'{name} differs from the model by {error:.1e} of the largest logit; {TOLERANCE:.0e} is allowed.'
        )
    tqdm.write(f'{name}: equal to the model within {error:.0e}')


def example(side: int, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def write_onnx(model: nn.Module, path: str, side: int) -> None:
    """Export logits of normalized images ``(B, 3, H, W)``, for any B."""
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
        check_logits(f'{path}, batch of {batch}', torch.from_numpy(logits), model(images))


def write_pt2(model: nn.Module, path: str, side: int) -> None:
    """Export logits of normalized images ``(B, 3, H, W)``, for any B."""
    program = torch.export.export(model, (example(side, 2),), dynamic_shapes=({0: torch.export.Dim('batch')},))
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    for batch in (2, 3):
        images = example(side, batch)
        check_logits(f'{path}, batch of {batch}', loaded(images), model(images))


WRITERS = dict(onnx=write_onnx, pt2=write_pt2)


class Logits(nn.Module):
    """A classifier as a function of the images alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images, mode='tensor')


def write_backbone(weights: str, path: str) -> None:
    """Write the backbone's part of an exported checkpoint."""
    saved = torch.load(weights, weights_only=True)
    saved['state_dict'] = {key: value for key, value in saved['state_dict'].items() if key.startswith('backbone.')}
    if not saved['state_dict']:
        raise SystemExit('--backbone-only: this student has no separate backbone (a timm model, for example).')
    torch.save(saved, path)
    print(f"Written: {path}; init_cfg=dict(type='Pretrained', checkpoint='{path}', prefix='backbone.')")


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
        write_backbone(weights, osp.join(folder, f'{args.name}_backbone.pth'))
    model = Logits(load_exported(config, weights)).eval()
    # disable=None: only on a terminal.
    with torch.no_grad(), tqdm([kind for kind in WRITERS if getattr(args, kind)], unit='file', disable=None) as bar:
        for kind in bar:
            bar.set_description(f'{args.name}.{kind}')
            WRITERS[kind](model, osp.join(folder, f'{args.name}.{kind}'), args.side or image_side(cfg))


if __name__ == '__main__':
    main()
