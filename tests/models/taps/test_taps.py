# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import copy
import pickle
import re

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from rsd_mm.models.taps import Recorder, classifier_layers, num_classes, resolve_tap


@pytest.fixture
def model(cnn):
    return MODELS.build(cnn()).eval()


VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    img_size=32,
)
VIT_HEAD = dict(type='VisionTransformerClsHead', num_classes=7, in_channels=16)
LINEAR_HEAD = dict(type='LinearClsHead', num_classes=7, in_channels=1280)
GAP = dict(type='GlobalAveragePooling')


def classifier(backbone, head, neck=None):
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)


# A model, the path of the layer that computes its logits, and the width of what enters it.
ARCHITECTURES = {
    'linear head': (classifier(dict(type='MobileNetV2', widen_factor=0.25), LINEAR_HEAD, GAP), 'head.fc', 1280),
    'vit head': (classifier(VIT, VIT_HEAD), 'head.layers.head', 16),
    'vit head, hidden layer': (classifier(VIT, dict(VIT_HEAD, hidden_dim=24)), 'head.layers.head', 24),
    'in the backbone': (
        classifier(dict(type='AlexNet', num_classes=7), dict(type='ClsHead')),
        'backbone.classifier.6',
        4096,
    ),
    'head that keeps no number of classes': (
        dict(
            classifier(
                dict(type='MobileNetV2', widen_factor=0.25),
                dict(type='VigClsHead', num_classes=7, in_channels=1280, hidden_dim=24, act_cfg=dict(type='ReLU')),
                GAP,
            ),
            data_preprocessor=dict(num_classes=7),
        ),
        'head.fc2',
        24,
    ),
    'timm': (dict(type='TimmClassifier', model_name='resnet18', num_classes=7), 'model.fc', 512),
    'timm as a backbone': (
        classifier(
            dict(type='TIMMBackbone', model_name='resnet18', features_only=False),
            dict(LINEAR_HEAD, in_channels=512),
            GAP,
        ),
        'head.fc',
        512,
    ),
    'a convolution (timm)': (dict(type='TimmClassifier', model_name='dla46_c', num_classes=7), 'model.fc', 256),
}


@pytest.mark.parametrize('kind', ARCHITECTURES)
def test_embedding_is_what_enters_the_classifier(kind):
    cfg, path, width = ARCHITECTURES[kind]
    model = MODELS.build(copy.deepcopy(cfg)).eval()
    assert classifier_layers(model) == (path,)
    assert num_classes(model) == 7
    embedding, logits = resolve_tap(model, 'embedding', 'student'), resolve_tap(model, 'logits', 'student')
    assert (embedding.channels, logits.channels) == (width, 7)
    side = 224 if kind == 'in the backbone' else 32
    with Recorder(model, [embedding, logits]) as record, torch.no_grad():
        out = model(torch.randn(2, 3, side, side))
    out = out[-1] if isinstance(out, (tuple, list)) else out
    assert record[embedding].shape == (2, width)
    torch.testing.assert_close(record[logits], out)
    if 'convolution' not in kind:
        torch.testing.assert_close(model.get_submodule(path)(record[embedding]), out)


TWO_HEADS = {
    'distilled DeiT': (
        classifier(dict(VIT, type='DistilledVisionTransformer'), dict(VIT_HEAD, type='DeiTClsHead')),
        ('head.layers.head', 'head.layers.head_dist'),
        16,
    ),
    'EfficientFormer': (
        classifier(dict(type='MobileNetV2', widen_factor=0.25), dict(LINEAR_HEAD, type='EfficientFormerClsHead'), GAP),
        ('head.head', 'head.dist_head'),
        1280,
    ),
    'LeViT': (
        classifier(dict(type='MobileNetV2', widen_factor=0.25), dict(LINEAR_HEAD, type='LeViTClsHead'), GAP),
        ('head.head.linear', 'head.head_dist.linear'),
        1280,
    ),
    'distilled DeiT (timm)': (
        dict(
            type='TimmClassifier',
            model_name='deit_tiny_distilled_patch16_224',
            num_classes=7,
            img_size=32,
            embed_dim=24,
            depth=1,
        ),
        ('model.head', 'model.head_dist'),
        24,
    ),
}


@pytest.mark.parametrize('kind', TWO_HEADS)
def test_two_heads_are_averaged(kind):
    cfg, paths, width = TWO_HEADS[kind]
    model = MODELS.build(copy.deepcopy(cfg)).eval()
    assert set(classifier_layers(model)) == set(paths)
    embedding, logits = resolve_tap(model, 'embedding', 'teacher'), resolve_tap(model, 'logits', 'teacher')
    assert (embedding.channels, logits.channels) == (width, 7)
    seen = []
    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    with Recorder(model, [embedding, logits], 'teacher') as record, torch.no_grad():
        out = model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(record[embedding], (seen[0][0] + seen[1][0]) / 2)
    torch.testing.assert_close(record[logits], (seen[0][1] + seen[1][1]) / 2)
    torch.testing.assert_close(record[logits], out)  # these heads average as well


def test_two_branches_of_different_widths_are_concatenated():
    head = dict(type='ConformerHead', num_classes=7, in_channels=[12, 20])
    model = MODELS.build(classifier(dict(type='MobileNetV2', widen_factor=0.25), head)).eval()
    embedding = resolve_tap(model, 'embedding', 'teacher')
    assert embedding.channels == 32
    branches = torch.randn(2, 12), torch.randn(2, 20)
    with Recorder(model, [embedding], 'teacher') as record:
        model.head([list(branches)])
    torch.testing.assert_close(record[embedding], torch.cat(branches, dim=1))


def test_embedding_is_mmpretrains_pre_logits(model):
    tap = resolve_tap(model, 'embedding', 'student')
    images = torch.randn(2, 3, 32, 32)
    with Recorder(model, [tap]) as record, torch.no_grad():
        model(images)
    torch.testing.assert_close(record[tap], model.extract_feat(images, stage='pre_logits'))


def test_module_paths_and_mmrazors_words(model):
    images = torch.randn(2, 3, 32, 32)
    stage = resolve_tap(model, 'backbone.layer2', 'student')
    pooled = resolve_tap(model, dict(type='ModuleInputs', source='head.fc'), 'student')
    neck_in = resolve_tap(model, dict(type='ModuleInputs', source='neck', data_idx=0), 'student')  # a tuple of one
    with Recorder(model, [stage, pooled, neck_in]) as record, torch.no_grad():
        model(images)
    assert record[stage].shape == (2, 8, 16, 16)
    assert record[pooled].shape == (2, 32)
    assert pooled.channels == 32
    assert stage.channels is None
    (expected,) = model.extract_feat(images, stage='backbone')
    torch.testing.assert_close(record[neck_in], expected)


def test_no_hook_is_left_even_after_an_error(model):
    tap = resolve_tap(model, 'embedding', 'student')
    with pytest.raises(RuntimeError, match='stop'), Recorder(model, [tap]):
        raise RuntimeError('stop')
    with Recorder(model, [tap]):
        model(torch.randn(1, 3, 32, 32))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    pickle.dumps(model)
    copy.deepcopy(model)


def test_gradient_flows_through_a_tap(model):
    tap = resolve_tap(model, 'embedding', 'student')
    with Recorder(model, [tap]) as record:
        model(torch.randn(2, 3, 32, 32))
    record[tap].sum().backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.head.fc.weight.grad is None


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.idle, self.pair = nn.Linear(4, 4), nn.Linear(4, 4), nn.Bilinear(4, 4, 4)

    def forward(self, x):
        return self.pair(self.shared(self.shared(x)), x)


class TestErrors:
    def test_unknown_path_suggests(self, model):
        with pytest.raises(
            ValueError, match="student: ImageClassifier has no module 'backbone.layer9'.*'backbone.layer"
        ):
            resolve_tap(model, 'backbone.layer9', 'student')

    def test_wrong_dict(self, model):
        with pytest.raises(ValueError, match=re.escape("teacher: a tap given as a dict is dict(type='ModuleInputs'")):
            resolve_tap(model, dict(type='Parameter', source='head.fc'), 'teacher')
        with pytest.raises(
            ValueError, match="a tap has no option 'idx'. It takes: type, source, data_idx, record_idx."
        ):
            resolve_tap(model, dict(type='ModuleInputs', source='head.fc', idx=0), 'teacher')

    def test_wrong_type(self, model):
        with pytest.raises(ValueError, match='student: a tap is a string or a dict, received 3.'):
            resolve_tap(model, 3, 'student')

    def test_ambiguous_classifier_lists_the_candidates(self):
        # A hidden layer as wide as there are classes.
        model = MODELS.build(classifier(VIT, dict(VIT_HEAD, hidden_dim=7)))
        message = 'layers that could: head.layers.head, head.layers.pre_logits. Name the'
        with pytest.raises(ValueError, match=re.escape(message)):
            classifier_layers(model, 'student')

    def test_module_that_ran_twice(self):
        model = Twice()
        tap = resolve_tap(model, 'shared', 'student')
        with pytest.raises(RuntimeError, match="'shared' ran more than once"), Recorder(model, [tap], 'student'):
            model(torch.randn(2, 4))

    def test_one_of_several_runs(self):
        model = Twice()
        x = torch.randn(2, 4)
        first, second, third = (
            resolve_tap(model, dict(type='ModuleOutputs', source='shared', record_idx=i), 'student') for i in range(3)
        )
        with Recorder(model, [first, second, third], 'student') as record:
            model(x)
        assert torch.equal(record[first], model.shared(x))
        assert torch.equal(record[second], model.shared(model.shared(x)))
        with pytest.raises(RuntimeError, match='student: record_idx=2 of shared .* whose module ran 2 times'):
            record[third]

    def test_module_that_did_not_run(self):
        model = Twice()
        tap = resolve_tap(model, 'idle', 'student')
        with Recorder(model, [tap], 'student') as record:
            model(torch.randn(2, 4))
        with pytest.raises(RuntimeError, match="student: the module 'idle' did not run in this forward"):
            record[tap]

    def test_several_inputs_need_an_index(self):
        model = Twice()
        x = torch.randn(2, 4)
        tap = resolve_tap(model, dict(type='ModuleInputs', source='pair'), 'student')
        second = resolve_tap(model, dict(type='ModuleInputs', source='pair', data_idx=1), 'student')
        with Recorder(model, [tap, second], 'student') as record:
            model(x)
        with pytest.raises(RuntimeError, match=re.escape("dict(type='ModuleInputs', source='pair', data_idx=...)")):
            record[tap]
        assert record[second] is x


@pytest.mark.parametrize('head', ['StackedLinearClsHead', 'LinearClsHead'])
def test_statistics_are_updated_once_a_step(head):
    """A stacked head normalizes inside pre_logits: reading the embedding must not run it again."""
    kind = dict(type=head, num_classes=7, in_channels=1280)
    if head == 'StackedLinearClsHead':
        kind.update(mid_channels=[24], norm_cfg=dict(type='BN1d'))
    model = MODELS.build(classifier(dict(type='MobileNetV2', widen_factor=0.25), kind, GAP)).train()
    embedding = resolve_tap(model, 'embedding', 'student')
    assert embedding.channels == (24 if head == 'StackedLinearClsHead' else 1280)
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    with Recorder(model, [embedding]) as record:
        model(torch.randn(4, 3, 32, 32), samples, mode='loss')
    assert record[embedding].shape == (4, embedding.channels)
    counts = {int(value) for name, value in model.state_dict().items() if name.endswith('num_batches_tracked')}
    assert counts == {1}


def test_hugging_face(tmp_path):
    """A model of transformers, built from a config file on disk."""
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=32,
        patch_size=8,
        num_labels=7,
    )
    config.save_pretrained(tmp_path)
    model = MODELS.build(dict(type='HuggingFaceClassifier', model_name=str(tmp_path))).eval()
    assert num_classes(model) == 7
    assert classifier_layers(model) == ('model.classifier',)
    embedding, logits = resolve_tap(model, 'embedding', 'student'), resolve_tap(model, 'logits', 'student')
    with Recorder(model, [embedding, logits]) as record, torch.no_grad():
        out = model(torch.randn(2, 3, 32, 32))
    assert record[embedding].shape == (2, 24)
    torch.testing.assert_close(record[logits], out)
