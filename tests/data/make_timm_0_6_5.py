# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Makes ``timm_0_6_5.json``: what models of timm 0.6.5 compute with known weights.

Run it where timm 0.6.5 is installed (``pip install timm==0.6.5``)::

    python tests/data/make_timm_0_6_5.py

The weights themselves are not kept, only the names and shapes by which
:func:`weights` makes them again.
"""

import json
from pathlib import Path

import torch

MODELS = ('swin_tiny_patch4_window7_224', 'vit_small_patch16_224', 'mixer_b16_224', 'convnext_tiny')


def weights(entries):
    """A state dict for a list of ``[name, shape, dtype]``, the same wherever it is made."""
    state = {}
    for seed, (name, shape, dtype) in enumerate(entries):
        value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
        if len(shape) == 1 and name.endswith('weight'):  # of a normalization
            value += 1
        state[name] = value.to(getattr(torch, dtype))
    return state


def image():
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def main():
    import timm

    assert timm.__version__ == '0.6.5', timm.__version__
    expected = {}
    for name in MODELS:
        model = timm.create_model(name, num_classes=100).eval()
        state = model.state_dict()
        entries = [[key, list(value.shape), str(value.dtype).split('.')[1]] for key, value in state.items()]
        # Tables of indices and masks are not weights, and keep their values.
        fixed = {key: value for key, value in state.items() if key.endswith(('relative_position_index', 'attn_mask'))}
        model.load_state_dict({**weights(entries), **fixed}, strict=True)
        seen = []
        model.get_classifier().register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        logits = model(image())
        expected[name] = dict(
            state=entries,
            embedding=[round(value, 6) for value in seen[0][0].tolist()],
            logits=[round(value, 6) for value in logits[0].tolist()],
        )
    path = Path(__file__).with_name('timm_0_6_5.json')
    path.write_text(json.dumps(expected, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
