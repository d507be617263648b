# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import copy
import random
import re

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rsd_mm.models.reference import build_model, resolve_model
from rsd_mm.models.taps import Recorder, resolve_tap


def published(path):
    return build_model(resolve_model(dict(cfg_path=f'mmpretrain::{path}'), 'student'), 'student')


def timm(name):
    return MODELS.build(dict(type='TimmClassifier', model_name=name, num_classes=100))


# The networks of the paper's pairs: modules, widths, layout and leading tokens of the four stages, and where the map
# behind the classifier is.
PYRAMID = ('layer1.1', 'layer2.1', 'layer3.1', 'layer4.1')
QUARTERS = ('layers.2', 'layers.5', 'layers.8', 'layers.11')
BLOCKS = ('blocks.2', 'blocks.5', 'blocks.8', 'blocks.11')
STAGES = ('stages.0', 'stages.1', 'stages.2', 'stages.3')
LAYERS = ('layers.0', 'layers.1', 'layers.2', 'layers.3')
WIDTHS = (96, 192, 384, 768)
NETWORKS = {
    'resnet/resnet18_8xb32_in1k.py': (PYRAMID, (64, 128, 256, 512), 'NCHW', 0, 'backbone'),
    'mobilenet_v2/mobilenet-v2_8xb32_in1k.py': (
        ('layer2.1', 'layer3.2', 'layer5.2', 'layer7.0'),
        (24, 32, 96, 320),
        'NCHW',
        0,
        'backbone',
    ),
    'swin_transformer/swin-tiny_16xb64_in1k.py': (STAGES, WIDTHS, 'NLC', 0, 'backbone'),
    'deit/deit-tiny_4xb256_in1k.py': (QUARTERS, (192,) * 4, 'NLC', 1, 'backbone.ln1'),
    'convnext/convnext-tiny_32xb128_in1k.py': (STAGES, WIDTHS, 'NCHW', 0, 'backbone.stages.3'),
    'mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py': (QUARTERS, (768,) * 4, 'NLC', 0, 'backbone'),
    'resnet/resnet18_8xb16_cifar10.py': (PYRAMID, (64, 128, 256, 512), 'NCHW', 0, 'backbone'),
    'swin_tiny_patch4_window7_224': (LAYERS, WIDTHS, 'NHWC', 0, 'model.norm'),
    'vit_small_patch16_224': (BLOCKS, (384,) * 4, 'NLC', 1, 'model.norm'),
    'mixer_b16_224': (BLOCKS, (768,) * 4, 'NLC', 0, 'model.norm'),
    'convnext_tiny': (STAGES, WIDTHS, 'NCHW', 0, 'model.norm_pre'),
    'resmlp_12_224': (BLOCKS, (384,) * 4, 'NLC', 0, 'model.norm'),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_stages_and_regions_of_the_papers_networks(name):
    sources, widths, layout, prefix, pooled = NETWORKS[name]
    model = published(name) if name.endswith('.py') else timm(name)
    taps = [resolve_tap(model, f'stage{i}', 'student') for i in (1, 2, 3, 4)]
    trunk = 'backbone' if name.endswith('.py') else 'model'
    assert [tap.sources for tap in taps] == [(f'{trunk}.{source}',) for source in sources]
    assert tuple(tap.channels for tap in taps) == widths
    assert {(tap.form.layout, tap.form.prefix) for tap in taps} == {(layout, prefix)}
    if name != 'resnet/resnet18_8xb16_cifar10.py' and 'resnet' not in name and 'mobile' not in name:
        grids = [56, 28, 14, 7] if len(set(widths)) == 4 else [14] * 4
        if 'convnext' in name:
            grids = [16, 8, 4, 2]  # of the small probe, as nothing fixes its size
        assert [tap.form.grid for tap in taps] == [(grid, grid) for grid in grids]
    regions = resolve_tap(model, dict(type='ScaleLogits'), 'student')
    assert regions.sources[0] == pooled
    assert [path.split('.')[-1] for path, _ in regions.pooled.tail] == (
        [{True: 'norm3', False: 'norm'}[name.endswith('.py')]] if 'convnext' in name else []
    )


@pytest.mark.parametrize(
    ('name', 'sources', 'widths'),
    [
        (
            'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',
            ('layer1', 'layer3', 'layer8', 'layer12'),
            (16, 24, 48, 576),
        ),
        (
            'inception_v3/inception-v3_8xb32_in1k.py',
            ('Conv2d_4a_3x3', 'Mixed_5d', 'Mixed_6e', 'Mixed_7c'),
            (192, 288, 768, 2048),
        ),
    ],
)
def test_stages_of_networks_without_lists(name, sources, widths):
    model = published(name)
    taps = [resolve_tap(model, f'stage{i}', 'student') for i in (1, 2, 3, 4)]
    assert [tap.sources for tap in taps] == [(f'backbone.{source}',) for source in sources]
    assert tuple(tap.channels for tap in taps) == widths


def test_regions_are_classified_like_whole_images(cnn):
    model = MODELS.build(cnn()).eval()
    tap = resolve_tap(model, dict(type='ScaleLogits', scales=(1, 2, 4)), 'student')
    with Recorder(model, [tap]) as record:
        logits = model(torch.randn(3, 3, 64, 64))
    value = record[tap]
    assert value.shape == (3, 21, 10)
    torch.testing.assert_close(value[:, 0], logits)
    # Averages of equal cells are the average of all, and the classifier is affine.
    torch.testing.assert_close(value[:, 1:5].mean(dim=1), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value[:, 5:].mean(dim=1), logits, rtol=1e-4, atol=1e-5)
    value[:, 1:].sum().backward()
    assert model.head.fc.weight.grad.abs().sum() > 0


def test_regions_by_hand(cnn):
    model = MODELS.build(cnn()).eval()
    tap = resolve_tap(model, dict(type='ScaleLogits', scales=(1, 2)), 'student')
    images = torch.randn(2, 3, 32, 32)
    with Recorder(model, [tap]) as record:
        model(images)
    (features,) = model.backbone(images)
    for cell in range(4):
        i, j = divmod(cell, 2)
        half = features.shape[2] // 2
        mean = features[:, :, i * half : (i + 1) * half, j * half : (j + 1) * half].mean(dim=(2, 3))
        torch.testing.assert_close(record[tap][:, 1 + cell], model.head.fc(mean))


@pytest.mark.parametrize(
    ('blocks', 'ends'), [(3, [0, 1, 2, 2]), (5, [1, 2, 3, 4]), (6, [1, 2, 4, 5]), (8, [1, 3, 5, 7])]
)
def test_quarters_of_blocks_are_rounded_up(blocks, ends):
    vit = dict(type='VisionTransformer', img_size=32, patch_size=8)
    vit['arch'] = dict(embed_dims=16, num_layers=blocks, num_heads=2, feedforward_channels=16)
    model = MODELS.build(dict(type='ImageClassifier', backbone=vit))
    sources = [resolve_tap(model, f'stage{i}', 'student').sources for i in (1, 2, 3, 4)]
    assert sources == [(f'backbone.layers.{end}',) for end in ends]


def test_stages_are_read_as_maps_or_tokens():
    vit = dict(type='VisionTransformer', img_size=32, patch_size=8)
    vit['arch'] = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=16)
    head = dict(type='VisionTransformerClsHead', num_classes=7, in_channels=16)
    model = MODELS.build(dict(type='ImageClassifier', backbone=vit, head=head)).eval()
    tap = resolve_tap(model, 'stage2', 'student')
    seen = []
    model.backbone.layers[1].register_forward_hook(lambda module, args, out: seen.append(out))
    with Recorder(model, [tap]) as record:
        model(torch.randn(2, 3, 32, 32))
    assert torch.equal(record[tap], seen[0])
    as_map = tap.as_map(record[tap])
    assert as_map.shape == (2, 16, 4, 4)
    assert torch.equal(as_map[:, :, 1, 2], seen[0][:, 1 + 4 + 2])


def test_a_probe_leaves_no_trace(cnn, swin):
    for cfg in (cnn(), swin()):
        model = MODELS.build(cfg).train()
        model.backbone.eval()
        model.requires_grad_(True)
        before = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        resolve_tap(model, dict(type='Stage', source='backbone'), 'student')
        resolve_tap(model, dict(type='ScaleLogits'), 'student')
        assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())
        assert [module.training for module in model.modules()] == before[1]
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
        assert not any(module._forward_hooks for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())


def test_stages_by_path(cnn):
    model = MODELS.build(cnn())
    found = resolve_tap(model, 'stage3', 'student')
    named = resolve_tap(model, dict(type='Stage', source='backbone.layer3'), 'student')
    assert (named.channels, named.form) == (found.channels, found.form)


class TestErrors:
    def test_two_resolutions(self, swin):
        model = MODELS.build(swin())
        message = (
            'teacher: ImageClassifier has no four stages that can be located: 2 blocks of 2 resolutions in '
            "'backbone'. Name the modules instead of 'stage1' to 'stage4': dict(type='Stage', source="
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            resolve_tap(model, 'stage1', 'teacher')

    def test_flattened_maps_have_no_regions(self):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='AlexNet', num_classes=7),
                head=dict(type='ClsHead'),
            )
        )
        with pytest.raises(ValueError, match="the classifier 'backbone.classifier.6' of ImageClassifier is neither"):
            resolve_tap(model, dict(type='ScaleLogits'), 'student')

    @pytest.mark.parametrize(
        ('spec', 'message'),
        [
            (dict(type='ScaleLogits', scales=(2, 4)), 'with scale 1, the whole image, first; received'),
            (dict(type='ScaleLogits', scale=2), 'with scale 1, the whole image, first; received'),
            (dict(type='Stage', path='backbone'), "a stage is dict(type='Stage', source=PATH), received"),
            (dict(type='Stage', source='backbone.layr2'), "has no module 'backbone.layr2' to read"),
            (dict(type='Stage', source='head.fc'), "the output of 'head.fc' is neither a feature map nor tokens"),
        ],
    )
    def test_specs(self, cnn, spec, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            resolve_tap(MODELS.build(cnn()), spec, 'student')

    def test_network_that_runs_on_no_probe(self, cnn):
        model = MODELS.build(cnn())
        model.backbone.conv1 = nn.Conv2d(1, 4, 3)
        with pytest.raises(ValueError, match='does not run on an image of 224 x 224 pixels, with which its stages are'):
            resolve_tap(model, 'stage1', 'student')

    def test_tokens_of_images_that_are_not_square(self, cnn):
        vit = dict(type='VisionTransformer', img_size=32, patch_size=8)
        vit['arch'] = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=16)
        model = MODELS.build(dict(type='ImageClassifier', backbone=vit))
        tap = resolve_tap(model, 'stage1', 'student')
        with pytest.raises(ValueError, match='12 tokens are no square image'):
            tap.as_map(torch.zeros(2, 13, 16))
