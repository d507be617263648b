# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Every compared method in training: CNN, ViT and MLP students, and what it asks of the data."""

import copy
import re
from pathlib import Path

import pytest
import torch
from fast import fast_runs  # noqa: F401
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from rsd_mm.models.losses import dkd_loss, kd_loss, rsd_loss

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
METHODS = sorted(path.stem for path in (CONFIGS / '_base_' / 'methods').glob('*.py'))
MAIN = [name for name in METHODS if not re.match('rsd_(gamma|linear|invariance)', name)]


def method(name, classes=10):
    """A method's config, for a small dataset."""
    cfg = Config.fromfile(str(CONFIGS / '_base_' / 'methods' / f'{name}.py'))
    options = cfg.get('method') or cfg.model
    if name == 'crd':
        options.terms.loss_crd.loss.update(num_samples=60, negatives=16)
    return options


def vit(classes=10):
    """A small vision transformer with a class token, embedding of 16."""
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=16)
    head = dict(type='VisionTransformerClsHead', num_classes=classes, in_channels=16)
    # The head of MMPretrain starts from zeros, and passes no gradient on at the first step.
    head['init_cfg'] = dict(type='Normal', layer='Linear', std=0.02)
    backbone = dict(type='VisionTransformer', img_size=32, patch_size=4, arch=arch)
    return dict(type='ImageClassifier', backbone=backbone, head=head)


def mixer(classes=10):
    """A small MLP-Mixer, embedding of 16."""
    arch = dict(embed_dims=16, num_layers=4, tokens_mlp_dims=8, channels_mlp_dims=32)
    return dict(
        type='ImageClassifier',
        backbone=dict(type='MlpMixer', img_size=32, patch_size=4, arch=arch),
        neck=dict(type='GlobalAveragePooling', dim=1),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=16),
    )


def raw_batch(size=8):
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8)
    samples = [DataSample(metainfo=dict(sample_idx=3 * i)).set_gt_label(i % 10) for i in range(size)]
    return dict(inputs=images, data_samples=samples)


@pytest.fixture
def build(cnn, save_weights):
    """A distiller of a method: a student taught by a CNN, or a CNN taught by a Mixer."""

    def make(name, student=None, **options):
        teacher = cnn() if student is not None else mixer()
        teacher['checkpoint'] = save_weights(teacher)
        torch.manual_seed(3)
        return MODELS.build(dict(method(name), student=student or cnn(), teacher=teacher, **options))

    return make


@pytest.mark.parametrize('student', [None, vit, mixer], ids=['cnn', 'vit', 'mlp'])
@pytest.mark.parametrize('name', METHODS)
def test_training_step(name, student, build):
    distiller = build(name, student and student()).train()
    distiller.init_weights()
    taught = copy.deepcopy(distiller.teacher.model.state_dict())
    before = {key: parameter.detach().clone() for key, parameter in distiller.named_parameters()}
    optimizer = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=1e-3))
    data = raw_batch()
    losses = distiller(**distiller.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    assert set(distiller.terms) < set(losses)
    total, _ = distiller.parse_losses(losses)
    total.backward()
    without = [key for key, parameter in distiller.named_parameters() if parameter.grad is None]
    assert not without  # DDP's find_unused_parameters may stay off
    distiller.zero_grad()
    log = distiller.train_step(data, optimizer)
    assert all(torch.isfinite(value) for value in log.values())
    torch.testing.assert_close(log['loss'], log['loss_task'] + sum(log[name] for name in distiller.terms))
    after = dict(distiller.named_parameters())
    moved = {key.split('.')[0] for key, value in before.items() if not torch.equal(after[key], value)}
    assert 'student' in moved
    assert ('terms' in moved) == bool(list(distiller.terms.parameters()))
    assert all(torch.equal(value, taught[key]) for key, value in distiller.teacher.model.state_dict().items())


@pytest.mark.parametrize('name', MAIN)
def test_learns(name, build):
    """A few steps on one batch lower what the method adds."""
    distiller = build(name, vit()).train()
    data = raw_batch(16)
    optimizer = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=3e-3))
    added = []
    for _ in range(12):
        log = distiller.train_step(copy.deepcopy(data), optimizer)
        added.append(float(log['loss'].detach() - log['loss_task'].detach()))
    assert added[-1] < added[0]


def test_methods_start_from_the_same_student(build):
    students = []
    for name in METHODS:
        distiller = build(name, vit())
        distiller.init_weights()
        # What is drawn next, too: augmentation and dropout.
        students.append({**distiller.student.state_dict(), 'next': torch.rand(3)})
    torch.manual_seed(3)
    alone = MODELS.build(vit())
    alone.init_weights()
    expected = {**alone.state_dict(), 'next': torch.rand(3)}
    for student in students:
        assert all(torch.equal(student[key], value) for key, value in expected.items())


def test_terms_compose(make_distiller, batch):
    logits = dict(student_tap='logits', teacher_tap='logits')
    terms = dict(loss_kd=dict(logits, loss=dict(type='KDLoss', loss_weight=0.5)))
    terms['loss_dkd'] = dict(logits, loss=dict(type='DecoupledKDLoss'))
    distiller = make_distiller(terms=terms).train()
    plain = copy.deepcopy(distiller)
    inputs, samples = batch()
    losses = distiller(inputs, samples, mode='loss')
    total, log = distiller.parse_losses(losses)
    assert {'loss', 'loss_task', 'loss_rsd', 'loss_kd', 'loss_dkd'} <= set(log)
    torch.testing.assert_close(total, sum(value for key, value in losses.items() if 'loss' in key))
    s, t = plain.student(inputs), plain.teacher.model(inputs)
    labels = torch.cat([sample.gt_label for sample in samples])
    torch.testing.assert_close(losses['loss_kd'], 0.5 * kd_loss(s, t))
    torch.testing.assert_close(losses['loss_dkd'], dkd_loss(s, t, labels))


def test_losses_get_the_mixed_targets(cnn, build):
    class Keep(torch.nn.Module):
        def forward(self, preds_S, preds_T, gt_labels, sample_idx):
            self.seen = gt_labels, sample_idx
            return preds_S.sum() * 0

    keep = Keep()
    student = dict(cnn(), train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))
    term = dict(student_tap='logits', teacher_tap='logits', loss=keep)
    distiller = build('rsd', student, terms=dict(loss_keep=term), data_preprocessor=dict(num_classes=10)).train()
    data = distiller.data_preprocessor(raw_batch(), True)
    distiller(**data, mode='loss')
    scores = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert torch.equal(keep.seen[0], scores)
    assert 0 < scores.max(dim=1).values.min() < 1
    assert keep.seen[1].tolist() == list(range(0, 24, 3))
    plain = build('rsd', cnn(), terms=dict(loss_keep=term)).train()
    plain(**plain.data_preprocessor(raw_batch(), True), mode='loss')
    assert keep.seen[0].tolist() == list(range(8))


def test_multi_stage_rsd_compares_branches_with_the_teachers_embedding(build, batch):
    distiller = build('rsd_stages', vit()).train()
    plain = copy.deepcopy(distiller)
    inputs, samples = batch()
    losses = distiller(inputs, samples, mode='loss')
    tokens = []
    for layer in plain.student.backbone.layers:
        layer.register_forward_hook(lambda module, args, out: tokens.append(out))
    plain.student(inputs)
    taught = plain.teacher.model.extract_feat(inputs, stage='pre_logits')
    branch = plain.terms['loss_rsd2'].projector
    torch.testing.assert_close(losses['loss_rsd2'], 0.1 * rsd_loss(branch(tokens[1]), taught))


class TestErrors:
    def test_no_sample_index(self, build, batch):
        with pytest.raises(ValueError, match='loss_crd: its loss needs the index of each image.*among the meta_keys'):
            build('crd').train()(*batch(), mode='loss')

    def test_no_labels(self, build):
        distiller = build('dkd').train()
        distiller.student.head.loss = lambda feats, samples: dict(loss=feats[0].sum())
        with pytest.raises(ValueError, match='loss_dkd: its loss needs labels, but the images of the batch have none'):
            distiller(torch.randn(2, 3, 32, 32), [DataSample(), DataSample()], mode='loss')

    @pytest.mark.parametrize('name', ['kd', 'sdd', 'ofa'])
    def test_other_classes(self, name, build):
        with pytest.raises(ValueError, match='the student has 7 classes and the teacher 10'):
            build(name, vit(classes=7))

    @pytest.mark.parametrize(
        ('term', 'message'),
        [
            (
                dict(teacher_projector=dict(type='LinearProjector', out_channels=8), loss=dict(type='CCLoss')),
                "has 16 channels and the teacher's projector has 8",
            ),
            (
                dict(
                    projector=dict(type='LinearProjector', out_channels=4),
                    teacher_projector=dict(type='LinearProjector', out_channels=8),
                    loss=dict(type='CCLoss'),
                ),
                "loss_x.projector: out_channels=4, but the teacher's projector has 8 channels",
            ),
            (
                dict(teacher_projector=dict(type='LinearProjector'), loss=dict(type='CCLoss')),
                'loss_x.teacher_projector: the width of the meeting of both sides is unknown before it runs; set',
            ),
            (
                dict(projector=dict(type='OFAProjector', stage=1), loss=dict(type='RSDLoss')),
                "OFAProjector: it reads a stage of the student: student_tap='stage1'",
            ),
            (
                dict(student_tap='stage1', projector=dict(type='OFAProjector', stage=5), loss=dict(type='RSDLoss')),
                'OFAProjector: stage is 1, 2, 3 or 4, received 5',
            ),
            (
                dict(
                    student_tap='stage1',
                    projector=dict(type='OFAProjector', stage=1, num_heads=3),
                    loss=dict(type='RSDLoss'),
                ),
                "num_heads=3 does not divide the width 16 of the student's embedding",
            ),
        ],
    )
    def test_terms(self, term, message, build):
        with pytest.raises(ValueError, match=re.escape(message)):
            build('rsd', vit(), terms=dict(loss_x=term))


@HOOKS.register_module(force=True)
class RememberBatches(Hook):
    """Keeps the weights that a run starts from, and what it sees."""

    def before_train(self, runner):
        model = getattr(runner.model, 'student', runner.model)
        self.weights = {key: value.clone() for key, value in model.state_dict().items()}
        self.batches = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches.append([sample.sample_idx for sample in data_batch['data_samples']])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.first = getattr(self, 'first', None) or float(outputs.get('loss_task', outputs['loss']).detach())


def test_a_run_starts_from_the_same_student_and_sees_the_same_batches_whatever_the_method(tmp_path):
    """Through real Runners: two seeds, the student alone, and every kind of method."""
    started = {}
    names = ['', 'kd', 'crd', 'ofa', 'rsd_stages']
    for name in [*names, 'kd']:
        cfg = Config.fromfile(str(CONFIGS / 'quickstart' / f'{"resnet_to_" if name else ""}vit_digits.py'))
        if name:
            cfg.model = dict(method(name), student=cfg.model.student, teacher=cfg.model.teacher)
            if name == 'crd':
                cfg.model.terms.loss_crd.loss.num_samples = 1200
            cfg.model.teacher.update(checkpoint=None, allow_random_weights=True)
        seed = 1 if name in started else 0
        cfg.merge_from_dict(dict(train_cfg=dict(by_epoch=False, max_iters=3), randomness=dict(seed=seed)))
        cfg.train_cfg.pop('max_epochs')
        cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        cfg.default_hooks.checkpoint.save_best = None
        cfg.update(param_scheduler=None, log_level='ERROR', work_dir=str(tmp_path), experiment_name=f'{name}{seed}')
        runner = Runner.from_cfg(cfg)
        hook = RememberBatches()
        runner.register_hook(hook)
        runner.train()
        started[name if seed == 0 else 'another seed'] = hook
    alone, other = started[''], started.pop('another seed')
    for hook in started.values():
        assert hook.batches == alone.batches
        assert hook.weights.keys() == alone.weights.keys()
        assert all(torch.equal(hook.weights[key], value) for key, value in alone.weights.items())
        assert hook.first == alone.first
    assert other.batches != alone.batches
    assert not torch.equal(other.weights['backbone.pos_embed'], alone.weights['backbone.pos_embed'])
