# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The student as a plain MMPretrain model: at the end of training, by the tool, and where this package is missing."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer

from rsd_mm import ExportStudentHook
from rsd_mm.engine.export import load_exported
from rsd_mm.utils import load_strictly, read_checkpoint

TIMM = dict(type='TimmClassifier', model_name='resnet10t', num_classes=2)
MMPRETRAIN_TEST = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / 'test.py'


@pytest.fixture(scope='module')
def folder(place):
    """Two classes of images in folders."""
    root = place / 'images'
    generator = np.random.default_rng(0)
    for split, count in dict(train=8, val=4).items():
        for label, level in dict(dark=60, light=190).items():
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                image = generator.integers(level - 60, level + 60, (40, 48, 3))
                image[..., 0] //= 2  # colours that are not grey, so that their order matters
                cv2.imwrite(str(root / split / label / f'{i}.png'), image.astype(np.uint8))
    return root


@pytest.fixture(scope='module')
def train(folder, root, place, cnn, swin):
    """A distillation of two epochs with a real Runner; its work dir and the Runner. The config is NAME.py beside it."""
    init_default_scope('mmpretrain')
    weights = str(place / 'teacher.pth')
    torch.save(MODELS.build(swin(2)).state_dict(), weights)

    def run(name, student=None, **settings):
        base = root / 'configs' / '_base_'
        cfg = Config.fromfile(str(base / 'datasets' / 'folder_bs64.py'))
        cfg.merge_from_dict(Config.fromfile(str(base / 'default_runtime.py')).to_dict())
        cfg.merge_from_dict(Config.fromfile(str(base / 'schedules' / 'digits_30e.py')).to_dict())
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=36),
            dict(type='CenterCrop', crop_size=32),
            dict(type='PackInputs'),
        ]
        for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            cfg[field].update(batch_size=4, num_workers=0, persistent_workers=False)
            cfg[field].dataset.update(data_root=str(folder), pipeline=copy.deepcopy(pipeline))
            cfg[field].collate_fn = dict(type='default_collate')
        cfg.val_evaluator = cfg.test_evaluator = dict(type='Accuracy', topk=(1,))
        cfg.data_preprocessor.num_classes = 2
        cfg.model = dict(type='RSDDistiller', student=student or cnn(2), teacher=dict(swin(2), checkpoint=weights))
        cfg.train_cfg.update(max_epochs=2, val_interval=1)
        cfg.work_dir, cfg.experiment_name, cfg.randomness = str(place / name), name, dict(seed=0)
        cfg.merge_from_dict(settings)
        file = place / f'{name}.py'
        cfg.dump(str(file))
        runner = Runner.from_cfg(Config.fromfile(str(file)))
        runner.train()
        return place / name, runner

    return run


@pytest.fixture(scope='module')
def trained(train):
    return train('run', default_hooks=dict(export_student=dict(baseline=40.0)))


def predictions(runner):
    """What a Runner's model says of its validation images."""
    model = runner.model.eval()
    scores = []
    with torch.no_grad():
        for batch in runner.val_dataloader:
            scores += [sample.pred_score.numpy() for sample in model.val_step(batch)]
    return np.stack(scores)


def images_of(runner):
    dataset = runner.val_dataloader.dataset
    return [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


def test_the_inferencer_gives_the_distillers_predictions(trained):
    work, runner = trained
    expected = predictions(runner)
    inferencer = ImageClassificationInferencer(str(work / 'student.py'), str(work / 'student.pth'))
    results = inferencer(images_of(runner))
    np.testing.assert_allclose([result['pred_scores'] for result in results], expected, atol=1e-6)
    assert {result['pred_class'] for result in results} <= {'dark', 'light'}
    saved = torch.load(work / 'student.pth', weights_only=True)  # nothing but tensors and plain values
    assert not any(key.startswith(('student.', 'terms.')) for key in saved['state_dict'])
    told = saved['meta']
    assert told['metrics']['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()
    assert told['distilled_from']['method'] == 'RSDDistiller'
    assert told['distilled_from']['teacher'] == 'ImageClassifier'
    assert told['distilled_from']['dataset'] == 'CustomDataset'
    assert (told['epoch'], told['iter']) == (2, 8)
    assert 'rsd_mm' not in re.sub('^#.*', '', (work / 'student.py').read_text(), flags=re.MULTILINE)


def test_where_this_package_is_missing(trained):
    """MMPretrain's test tool and its Inferencer, in a process that can't import rsd_mm."""
    work, runner = trained
    out = str(work / 'metrics.json')
    arguments = ['test.py', str(work / 'student.py'), str(work / 'student.pth'), '--out', out, '--out-item', 'metrics']
    arguments += ['--work-dir', str(work / 'test')]
    code = (
        'import runpy, sys\n'
        "sys.modules['rsd_mm'] = None\n"
        'from mmpretrain import ImageClassificationInferencer\n'
        "inferencer = ImageClassificationInferencer('student.py', 'student.pth')\n"
        f"print('\\nis', inferencer({images_of(runner)[0]!r})[0]['pred_class'])\n"
        f'sys.argv = {arguments!r}\n'
        f"runpy.run_path({str(MMPRETRAIN_TEST)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search('^is (dark|light)$', done.stdout, re.MULTILINE)
    tested = json.loads(Path(out).read_text())['accuracy/top1']
    assert tested == pytest.approx(runner.message_hub.get_scalar('val/accuracy/top1').current())


def test_pretrained_by_init_cfg(trained, cnn):
    work, runner = trained
    whole = dict(cnn(2), init_cfg=dict(type='Pretrained', checkpoint=str(work / 'student.pth')))
    backbone = copy.deepcopy(cnn(2))
    backbone['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=str(work / 'student.pth'), prefix='backbone.')
    for cfg in (whole, backbone):
        model = MODELS.build(cfg)
        model.init_weights()
        state = runner.model.student.backbone.state_dict()
        assert all(torch.equal(state[key], value) for key, value in model.backbone.state_dict().items())


def test_averaged_weights_and_the_best_checkpoint(train):
    work, runner = train('ema', custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    last, best = (read_checkpoint(next(work.glob(name))) for name in ('epoch_2.pth', 'best_*.pth'))
    for name, checkpoint in dict(student=last, student_best=best).items():
        saved = torch.load(work / f'{name}.pth', weights_only=True)['state_dict']
        assert all(torch.equal(saved[key], checkpoint['state_dict'][f'student.{key}']) for key in saved)
    current = runner.model.student.state_dict()
    averaged = torch.load(work / 'student.pth', weights_only=True)['state_dict']
    assert not all(torch.equal(current[key], averaged[key]) for key in current)
    meta = torch.load(work / 'student_best.pth', weights_only=True)['meta']
    assert meta['metrics']['accuracy/top1'] == runner.message_hub.runtime_info['best_score']


def test_a_student_of_timm(train):
    timm = pytest.importorskip('timm')
    work, runner = train('timm', dict(TIMM))
    model = timm.create_model('resnet10t', num_classes=2, checkpoint_path=str(work / 'student.pth')).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), runner.model.student.eval()(images))
        torch.testing.assert_close(
            model(images), load_exported(*map(str, (work / 'student.py', work / 'student.pth')))(images)
        )


def test_the_tool_takes_any_training_checkpoint(trained, call_tool, cnn, place, tmp_path):
    work, _ = trained
    out = tmp_path / 'out'
    call_tool('export_student.py', place / 'run.py', work / 'epoch_1.pth', '--out-dir', out, '--backbone-only')
    state = read_checkpoint(work / 'epoch_1.pth')['state_dict']
    saved = torch.load(out / 'student.pth', weights_only=True)
    assert all(torch.equal(saved['state_dict'][key], state[f'student.{key}']) for key in saved['state_dict'])
    assert saved['meta']['epoch'] == 1
    assert saved['meta']['metrics'] == {}  # it was saved before its epoch was validated
    assert list(saved['meta']['dataset_meta']['classes']) == ['dark', 'light']
    backbone = torch.load(out / 'student_backbone.pth', weights_only=True)['state_dict']
    assert set(backbone) == {key for key in saved['state_dict'] if key.startswith('backbone.')}
    load_strictly(MODELS.build(cnn(2)), str(out / 'student.pth'))


def test_onnx_and_torch_export(trained, call_tool, place, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    work, runner = trained
    command = ['export_student.py', place / 'run.py', work / 'epoch_2.pth', '--out-dir', tmp_path, '--onnx', '--pt2']
    printed = call_tool(*command).stdout
    assert 'student.onnx, batch of 1: equal to the model within' in printed
    assert 'student.pt2, batch of 3: equal to the model within' in printed
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = runner.model.student.eval()(images).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / 'student.onnx'), providers=['CPUExecutionProvider'])
    np.testing.assert_allclose(session.run(None, {'images': images.numpy()})[0], expected, atol=1e-4)
    loaded = torch.export.load(str(tmp_path / 'student.pt2')).module()
    np.testing.assert_allclose(loaded(images).detach().numpy(), expected, atol=1e-4)


def test_predict(trained, call_tool, folder, tmp_path):
    work, runner = trained
    expected = predictions(runner)
    student = ('predict.py', work / 'student.py', work / 'student.pth')
    printed = call_tool(*student, folder / 'val', '--topk', '2').stdout
    for path, scores in zip(images_of(runner), expected):
        order = scores.argsort()[::-1]
        lines = [f'  {100 * scores[label]:5.1f} %  {("dark", "light")[label]}' for label in order]
        assert '\n'.join([path, *lines]) in printed
    done = call_tool(*student, work / 'none.jpg', check=False)
    assert 'does not exist (looked in' in done.stdout
    (tmp_path / 'empty').mkdir()
    done = call_tool(*student, 'empty', cwd=tmp_path, check=False)
    assert "'empty' contains no images" in done.stdout


def test_summary_against_a_baseline(trained):
    _, runner = trained
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    top1 = runner.message_hub.get_scalar('val/accuracy/top1').current()
    assert f'student.pth, top-1 {top1:.2f} % on the validation set, {top1 - 40:+.2f} points over the baseline' in log
    assert 'python tools/predict.py' in log
    with pytest.raises(ValueError, match='baseline is in percent'):
        ExportStudentHook(baseline=-1)
