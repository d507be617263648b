# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""RSD's parts inside mmrazor's own distiller, with the real mmrazor."""

import copy
import importlib.util
import re
import sys

import forked
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.utils import digit_version

from rsd_mm.models.reference import resolve_model
from rsd_mm.utils import read_checkpoint

pytestmark = pytest.mark.skipif(importlib.util.find_spec('mmrazor') is None, reason='mmrazor is not installed')


def imports():
    """In a process that has imported rsd_mm."""
    assert 'rsd_mm' in sys.modules
    assert not [name for name in sys.modules if re.match(r'(rsd_mm\.compat\.)?mmrazor', name)]
    before = mmcv.__version__, torch.__version__
    importlib.import_module('rsd_mm.compat.mmrazor')
    mmrazor = importlib.import_module('mmrazor')
    assert hasattr(importlib.import_module('mmrazor.models'), 'ConfigurableDistiller')
    assert hasattr(importlib.import_module('mmrazor.models'), 'SingleTeacherDistill')
    importlib.import_module('mmrazor.engine')
    assert (mmcv.__version__, torch.__version__) == before
    assert mmrazor.digit_version is digit_version


def test_only_who_asks_imports_mmrazor_which_leaves_torch_and_mmcv_as_they_are(tmp_path):
    forked.run(imports, output=tmp_path / 'imports.txt')


def weights(tmp_path, cfg):
    """A file with random weights of the config's teacher."""
    teacher = MODELS.build(copy.deepcopy(cfg.model.teacher))
    path = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=teacher.state_dict()), path)
    return path


def train(cfg, tmp_path, name='run', epochs=2):
    cfg.train_cfg.max_epochs = epochs
    cfg.train_cfg.val_interval = 1
    cfg.work_dir, cfg.log_level, cfg.experiment_name = str(tmp_path / 'work'), 'ERROR', name
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def check_trained(runner):
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['train/distill.loss_rsd'].data[0]).all()
    assert {'val/accuracy/top1', 'val/teacher.accuracy/top1'} <= set(scalars)


def check_same_losses(runner, ours, **prefixes):
    """RSDDistiller computes the same losses and gradients on the same batch and weights."""
    razor = runner.model
    ours.student.load_state_dict(razor.architecture.state_dict())
    ours.terms['loss_rsd'].projector.load_state_dict(razor.distiller.connectors['proj'].state_dict())
    batch = next(iter(runner.train_dataloader))
    totals, gradients = [], []
    for model in (razor, ours):
        model.train()
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
        losses = model(**data, mode='loss')
        total, _ = model.parse_losses(losses)
        model.zero_grad()
        total.backward()
        parts = {key.split('.')[-1]: float(value.detach()) for key, value in losses.items() if 'loss' in key}
        totals.append([parts['loss'], parts['loss_rsd'], float(total.detach())])
        gradients.append({name: parameter.grad for name, parameter in model.student.named_parameters()})
    assert totals[0][1] > 1
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_digits(root, tmp_path):
    cfg = Config.fromfile(str(root / 'configs/mmrazor/resnet_to_vit_digits.py'))
    cfg.model.teacher_ckpt = weights(tmp_path, cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.indices = 192
    runner = train(cfg.copy(), tmp_path)
    assert runner.iter == 6
    check_trained(runner)

    own = Config.fromfile(str(root / 'configs/quickstart/resnet_to_vit_digits.py'))
    own.model.teacher.checkpoint = cfg.model.teacher_ckpt
    ours = MODELS.build(dict(own.model, data_preprocessor=own.data_preprocessor))
    check_same_losses(runner, ours)

    # mmrazor's checkpoints are mmengine's, and resume as ours do.
    cfg.resume = True
    cfg.load_from = str(tmp_path / 'work' / 'epoch_1.pth')
    again = train(cfg, tmp_path, 'again')
    assert again.iter == 6
    saved = read_checkpoint(tmp_path / 'work' / 'epoch_2.pth')
    assert {key.split('.')[0] for key in saved['state_dict']} >= {'architecture', 'teacher', 'distiller'}


def test_imagenet(root, tmp_path, imagenet):
    cfg = Config.fromfile(str(root / 'configs/mmrazor/rsd_swin-t_to_resnet18_in1k.py'))
    own = Config.fromfile(str(root / 'configs/rsd/swin-t_to_resnet18_in1k.py'))
    published = resolve_model(own.model.teacher, 'teacher').checkpoint
    # The maintained fork publishes the same file elsewhere.
    assert cfg.model.teacher_ckpt.rsplit('/', 1)[1] == published.rsplit('/', 1)[1]
    assert cfg.optim_wrapper == own.optim_wrapper
    assert cfg.train_dataloader == own.train_dataloader
    cfg.model.teacher_ckpt = own.model.teacher.checkpoint = weights(tmp_path, cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=4, num_workers=0, persistent_workers=False, pin_memory=False)
        loader.dataset.data_root = str(imagenet)
        loader.collate_fn = dict(type='default_collate')
    # The teacher is in mmrazor's checkpoints, which take long to write here; test_digits saves and resumes.
    cfg.default_hooks.checkpoint.update(interval=10, save_last=False, save_best=None)
    runner = train(cfg, tmp_path, epochs=1)
    assert runner.iter == 2
    check_trained(runner)
    ours = MODELS.build(dict(own.model, data_preprocessor=own.data_preprocessor))
    check_same_losses(runner, ours)


def test_mmrazors_losses_and_connectors_in_our_distiller(make_distiller, cnn, batch):
    """The terms of mmrazor's FitNet example: they are what they are alone, and the connector is trained."""
    importlib.import_module('rsd_mm.compat.mmrazor')
    relu = dict(type='ModuleOutputs', source='backbone.layer4.1.relu', record_idx=1)
    connector = dict(type='mmrazor.ConvModuleConnector', in_channel=32, out_channel=32, norm_cfg=dict(type='BN'))
    kl = dict(type='mmrazor.KLDivergence', tau=6, loss_weight=10)
    terms = dict(
        loss_s4=dict(
            student_tap=relu, teacher_tap=relu, projector=connector, loss=dict(type='mmrazor.L2Loss', loss_weight=10)
        ),
        loss_kl=dict(student_tap='logits', teacher_tap='logits', loss=kl),
    )
    distiller = make_distiller(teacher=dict(cnn(), allow_random_weights=True), terms=terms).eval()
    inputs, samples = batch()
    losses = distiller(inputs, samples, mode='loss')
    term = distiller.terms['loss_s4']
    with torch.no_grad():
        stages = [
            model.extract_feat(inputs, stage='backbone')[-1] for model in (distiller.student, distiller.teacher.model)
        ]
        assert losses['loss_s4'] == pytest.approx(float(term.loss(term.projector(stages[0]), stages[1])), rel=1e-5)
        logits = [model(inputs) for model in (distiller.student, distiller.teacher.model)]
        assert losses['loss_kl'] == pytest.approx(float(MODELS.build(kl)(*logits)), rel=1e-5)
    losses['loss_s4'].backward()
    assert term.projector.conv_module.conv.weight.grad.abs().sum() > 0


RELU = dict(type='ModuleOutputs', source='backbone.layer4.1.relu', record_idx=1)
#: mmrazor's losses by where they compare; the page lists them.
LOSSES = dict(
    logits=['KLDivergence', 'DISTLoss', 'CrossEntropyLoss', 'DKDLoss', 'WSLD'],
    embedding=['AngleWiseRKD', 'DistanceWiseRKD', 'L1Loss', 'L2Loss', 'FTLoss', 'ABLoss'],
    map=['ATLoss', 'ChannelWiseDivergence', 'PKDLoss', 'MGDLoss', 'OFDLoss', 'FTLoss', 'ABLoss'],
)


def record(distiller, inputs, tap):
    """What both networks give at a tap of LOSSES."""
    for model in (distiller.student, distiller.teacher.model):
        feature = model.extract_feat(inputs, stage='backbone' if tap == 'map' else 'pre_logits')
        yield model.head.fc(feature) if tap == 'logits' else feature[-1] if tap == 'map' else feature


@pytest.mark.parametrize('tap', LOSSES)
def test_mmrazors_losses_in_our_terms(make_distiller, cnn, batch, tap):
    """Each gives what it gives alone; those with `gt_labels` get the labels."""
    importlib.import_module('rsd_mm.compat.mmrazor')
    place = RELU if tap == 'map' else tap
    configs = {
        name: dict(type=f'mmrazor.{name}', **dict(num_classes=10) if name == 'WSLD' else {}) for name in LOSSES[tap]
    }
    terms = {f'loss_{name}': dict(student_tap=place, teacher_tap=place, loss=cfg) for name, cfg in configs.items()}
    distiller = make_distiller(teacher=dict(cnn(), allow_random_weights=True), terms=terms).eval()
    inputs, samples = batch()
    losses = distiller(inputs, samples, mode='loss')
    labels = torch.cat([sample.gt_label for sample in samples])
    with torch.no_grad():
        pair = list(record(distiller, inputs, tap))
        for name in LOSSES[tap]:
            more = [labels] if name in ('DKDLoss', 'WSLD') else []
            expected = distiller.terms[f'loss_{name}'].loss(*pair, *more)
            assert losses[f'loss_{name}'].item() == pytest.approx(float(expected), rel=1e-4), name
    sum(losses[f'loss_{name}'] for name in LOSSES[tap]).backward()
    assert distiller.student.backbone.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ('loss', 'projector', 'teacher_projector'),
    [
        ('L2Loss', *[dict(type='ConvModuleConnector', in_channel=32, out_channel=16)] * 2),
        ('L2Loss', None, dict(type='ConvModuleConnector', in_channel=32, out_channel=32)),
        ('L2Loss', *[dict(type='NormConnector', in_channels=32, norm_cfg=dict(type='BN'))] * 2),
        ('L2Loss', *[dict(type='TorchFunctionalConnector', function_name='normalize', func_args={})] * 2),
        (
            'FTLoss',
            dict(type='Translator', in_channel=32, out_channel=16),
            dict(type='Paraphraser', in_channel=32, out_channel=16, phase='train'),
        ),
    ],
)
def test_mmrazors_connectors_on_both_sides(make_distiller, cnn, batch, loss, projector, teacher_projector):
    importlib.import_module('rsd_mm.compat.mmrazor')
    term = dict(student_tap=RELU, teacher_tap=RELU, loss=dict(type=f'mmrazor.{loss}'))
    for option, cfg in dict(projector=projector, teacher_projector=teacher_projector).items():
        if cfg is not None:
            term[option] = dict(cfg, type=f'mmrazor.{cfg["type"]}')
    teacher = dict(cnn(), allow_random_weights=True)
    distiller = make_distiller(teacher=teacher, terms=dict(loss_x=term)).eval()
    inputs, samples = batch()
    value = distiller(inputs, samples, mode='loss')['loss_x']
    part = distiller.terms.loss_x
    sides = list(record(distiller, inputs, 'map'))
    sides = [side if one is None else one(side) for side, one in zip(sides, (part.projector, part.teacher_projector))]
    assert value.item() == pytest.approx(float(part.loss(*sides).detach()), rel=1e-5)
    value.backward()
    # mmrazor's Paraphraser is pretrained and gets no gradient; the others are trained on both sides.
    trained = {name for name, x in part.named_parameters() if x.grad is not None}
    assert trained == {
        name for name, _ in part.named_parameters() if loss != 'FTLoss' or not name.startswith('teacher')
    }


CONNECTED = dict(student_tap=RELU, teacher_tap=RELU, loss='L2Loss')


@pytest.mark.parametrize(
    ('term', 'error', 'message'),
    [
        (dict(loss='CRDLoss'), TypeError, 'data_samples'),
        (dict(loss='ActivationLoss'), TypeError, 'positional arguments'),
        (dict(loss='KDSoftCELoss'), TypeError, 'PlaceHolder'),
        (dict(loss='FBKDLoss'), ValueError, 'unpack'),
        (dict(loss='L2Loss', projector=dict(type='CRDConnector', dim_in=32, dim_out=32)), TypeError, 'in_channels'),
        (
            dict(loss='L2Loss', teacher_projector=dict(type='CRDConnector', dim_in=32, dim_out=32)),
            ValueError,
            'loss_x.teacher_projector',
        ),
        (
            dict(CONNECTED, teacher_projector=dict(type='FBKDTeacherConnector', in_channels=32)),
            ValueError,
            'loss_x.teacher_projector',
        ),
        (dict(CONNECTED, teacher_projector=dict(type='OFDTeacherConnector')), AssertionError, 'margin'),
    ],
)
def test_what_the_page_says_does_not_work(make_distiller, cnn, batch, term, error, message):
    importlib.import_module('rsd_mm.compat.mmrazor')
    term = dict(term, loss=dict(type=term['loss']))
    for option in {'loss', 'projector', 'teacher_projector'} & term.keys():
        term[option] = dict(term[option], type=f'mmrazor.{term[option]["type"]}')
    with pytest.raises(error, match=message):
        make_distiller(teacher=dict(cnn(), allow_random_weights=True), terms=dict(loss_x=term))(*batch(), mode='loss')


def test_our_losses_in_mmrazors_distiller(cnn, batch):
    """By the names of their arguments; labels come from a recorder of the student's loss."""
    importlib.import_module('rsd_mm.compat.mmrazor')
    both = {'KDLoss': 'preds', 'StrongerTeacherLoss': 'logits', 'DecoupledKDLoss': 'preds', 'OFALoss': 'preds'}
    features = dict.fromkeys(('RSDLoss', 'CCLoss', 'RKDLoss'), 'feature')
    labelled = ('DecoupledKDLoss', 'OFALoss')
    recorders = dict(
        fc=dict(type='ModuleOutputs', source='head.fc'), embedding=dict(type='ModuleInputs', source='head.fc')
    )
    labels = dict(type='ModuleInputs', source='head.loss_module')

    def mapping(name):
        found = {}
        for side in 'ST':
            student = dict(from_student=side == 'S')
            if name in both:
                found[f'{both[name]}_{side}'] = dict(recorder='fc', **student)
            else:
                found[f'{side.lower()}_feature'] = dict(recorder='embedding', data_idx=0, **student)
        if name in labelled:
            found['gt_labels'] = dict(recorder='labels', data_idx=1, from_student=True)
        return found

    names = [*both, *features]
    model = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='SingleTeacherDistill',
            architecture=dict(cnn(), _scope_='mmpretrain'),
            teacher=dict(cnn(), _scope_='mmpretrain'),
            distiller=dict(
                type='ConfigurableDistiller',
                student_recorders=dict(recorders, labels=labels),
                teacher_recorders=recorders,
                distill_losses={f'loss_{name}': dict(type=name) for name in names},
                loss_forward_mappings={f'loss_{name}': mapping(name) for name in names},
            ),
        )
    )
    model.eval()
    inputs, samples = batch()
    losses = model(inputs, samples, mode='loss')
    with torch.no_grad():
        pair = [network.extract_feat(inputs) for network in (model.architecture, model.teacher)]
        pair = [value[-1] if isinstance(value, tuple) else value for value in pair]
        logits = [network.head.fc(x) for network, x in zip((model.architecture, model.teacher), pair)]
        for name in names:
            more = [torch.cat([sample.gt_label for sample in samples])] if name in labelled else []
            expected = model.distiller.distill_losses[f'loss_{name}'](*(logits if name in both else pair), *more)
            assert losses[f'distill.loss_{name}'].item() == pytest.approx(float(expected), rel=1e-4), name


def test_the_config_of_the_guide_trains(root, tmp_path, batch):
    """docs/from_mmrazor.md, its second config."""
    blocks = re.findall('```python\n(.*?)```', (root / 'docs/from_mmrazor.md').read_text(), re.DOTALL)
    file = tmp_path / 'guide.py'
    file.write_text(next(block for block in blocks if block.startswith('_base_')))
    cfg = Config.fromfile(str(file))
    cfg.model.teacher.update(pretrained=False, allow_random_weights=True)
    distiller = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    inputs, samples = batch(size=2)
    losses = distiller(inputs, samples, mode='loss')
    with torch.no_grad():
        preds = dict(preds_S=distiller.student(inputs), preds_T=distiller.teacher.model(inputs))
    expected = MODELS.build(cfg.model.terms.loss_kl.loss)(**preds)
    assert losses['loss_kl'].item() == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) > 0
