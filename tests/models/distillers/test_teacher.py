# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import copy
import re

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from rsd_mm.models.distillers import InputBridge, Teacher
from rsd_mm.utils import CheckpointError

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
HALF = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)
UNEVEN = dict(mean=[100.0, 120.0, 140.0], std=[50.0, 60.0, 70.0], to_rgb=False)


def preprocessor(options=None):
    return MODELS.build(dict(type='ClsDataPreprocessor', **(options or {})))


def pixels(size=4, side=32):
    return torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)


class TestInputBridge:
    @pytest.mark.parametrize('student', [IMAGENET, HALF, UNEVEN, None])
    @pytest.mark.parametrize('teacher', [IMAGENET, HALF, UNEVEN, None])
    def test_gives_what_the_teachers_own_preprocessing_gives(self, student, teacher):
        student, teacher = preprocessor(student), preprocessor(teacher)
        images = pixels()
        bridged = InputBridge(student, teacher)(student(dict(inputs=images))['inputs'])
        expected = teacher(dict(inputs=images))['inputs']
        torch.testing.assert_close(bridged, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))

    def test_mmengines_preprocessor(self):
        student = preprocessor(IMAGENET)
        teacher = MODELS.build(dict(type='ImgDataPreprocessor', mean=HALF['mean'], std=HALF['std'], bgr_to_rgb=True))
        images = pixels()
        bridged = InputBridge(student, teacher)(student(dict(inputs=images))['inputs'])
        torch.testing.assert_close(bridged, teacher(dict(inputs=list(images)))['inputs'], rtol=1e-5, atol=1e-5)

    def test_equal_normalization_passes_images_without_a_copy(self):
        images = torch.randn(2, 3, 8, 8)
        assert InputBridge(preprocessor(IMAGENET), preprocessor(IMAGENET))(images) is images

    def test_does_not_change_the_students_images(self):
        images = torch.randn(2, 3, 8, 8)
        before = images.clone()
        InputBridge(preprocessor(IMAGENET), preprocessor(UNEVEN))(images)
        assert torch.equal(images, before)

    def test_commutes_with_mixup(self):
        student, teacher = preprocessor(IMAGENET), preprocessor(HALF)
        bridge = InputBridge(student, teacher)
        images = pixels()
        mixed = 0.3 * student(dict(inputs=images))['inputs'] + 0.7 * student(dict(inputs=images.flip(0)))['inputs']
        expected = 0.3 * teacher(dict(inputs=images))['inputs'] + 0.7 * teacher(dict(inputs=images.flip(0)))['inputs']
        torch.testing.assert_close(bridge(mixed), expected, rtol=1e-5, atol=1e-5)

    def test_resizes(self):
        bridge = InputBridge(preprocessor(IMAGENET), preprocessor(IMAGENET), (48, 40))
        assert bridge(torch.randn(2, 3, 32, 32)).shape == (2, 3, 48, 40)
        constant = bridge(torch.full((1, 3, 32, 32), 0.7))
        torch.testing.assert_close(constant, torch.full((1, 3, 48, 40), 0.7))

    def test_has_no_state(self):
        assert not InputBridge(preprocessor(IMAGENET), preprocessor(HALF)).state_dict()


@pytest.fixture
def make(swin, save_weights):
    def make_teacher(student=IMAGENET, **options):
        cfg = dict(swin(), checkpoint=save_weights(swin()), **options)
        return Teacher.from_config(cfg, preprocessor(student))

    return make_teacher


def test_gives_what_the_model_itself_gives(make, swin):
    teacher = make(data_preprocessor=HALF)
    images = pixels()
    taps = [teacher.tap('embedding'), teacher.tap('logits')]
    out = teacher(preprocessor(IMAGENET)(dict(inputs=images))['inputs'], taps)
    plain = MODELS.build(dict(swin(), data_preprocessor=dict(HALF))).eval()
    plain.load_state_dict(torch.load(teacher.checkpoint))
    own = plain.data_preprocessor(dict(inputs=images))['inputs']
    with torch.no_grad():
        torch.testing.assert_close(out[taps[1]], plain(own), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out[taps[0]], plain.extract_feat(own, 'pre_logits'), rtol=1e-4, atol=1e-5)


def test_without_a_preprocessor_it_is_normalized_like_the_student(make):
    assert not make().bridge.renormalize
    assert make(data_preprocessor=HALF).bridge.renormalize


def test_preprocessor_of_a_config_file_is_its_own(swin, save_weights, tmp_path):
    path = tmp_path / 'teacher.py'
    path.write_text(f'model = {swin()!r}\ndata_preprocessor = {HALF!r}\n')
    teacher = Teacher.from_config(dict(cfg_path=str(path), checkpoint=save_weights(swin())), preprocessor(IMAGENET))
    assert teacher.bridge.renormalize
    torch.testing.assert_close(teacher.model.data_preprocessor.mean.flatten(), torch.full((3,), 127.5))


@pytest.mark.parametrize(
    ('loader', 'to_rgb', 'flip'),
    [
        ('LoadImageFromFile', True, False),  # like nearly all of MMPretrain: sees RGB
        ('LoadImageFromFile', False, True),  # like its RegNet and MobileViT: sees BGR
        (None, False, False),  # like CIFAR, whose images are RGB already
        (None, True, True),
    ],
)
@pytest.mark.parametrize('student', [IMAGENET, dict(IMAGENET, to_rgb=False)])  # either sees RGB, of its own loader
def test_order_of_channels_of_a_config_file(swin, save_weights, tmp_path, loader, to_rgb, flip, student):
    pipeline = [dict(type=loader)] if loader else []
    loading = dict(dataset=dict(pipeline=[*pipeline, dict(type='PackInputs')]))
    path = tmp_path / 'teacher.py'
    path.write_text(
        f'model = {swin()!r}\ndata_preprocessor = {dict(HALF, to_rgb=to_rgb)!r}\ntrain_dataloader = {loading!r}\n'
    )
    cfg = dict(cfg_path=str(path), checkpoint=save_weights(swin()))
    assert Teacher.from_config(cfg, preprocessor(student)).bridge.flip is flip
    # What the run's config says comes first.
    assert Teacher.from_config(dict(cfg, flip_channels=not flip), preprocessor(student)).bridge.flip is not flip
    told = Teacher.from_config(dict(cfg, data_preprocessor=dict(to_rgb=True)), preprocessor(student))
    assert told.bridge.flip is not student['to_rgb']


def test_mmpretrains_own_bgr_model():
    cfg = dict(cfg_path='mmpretrain::mobilevit/mobilevit-xxsmall_8xb128_in1k.py', allow_random_weights=True)
    bridge = Teacher.from_config(cfg, preprocessor(IMAGENET)).bridge
    images = pixels()
    bgr = images.float() / 255  # as OpenCV loads them
    torch.testing.assert_close(bridge(preprocessor(IMAGENET)(dict(inputs=images))['inputs']), bgr, rtol=1e-4, atol=1e-5)


def test_bad_flip_channels(make):
    with pytest.raises(ValueError, match="flip_channels is True, False or None .*, received 'bgr'"):
        make(flip_channels='bgr')


def test_input_size(make):
    teacher = make(input_size=64)
    seen = []
    teacher.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    teacher(torch.randn(2, 3, 32, 32), [teacher.tap('embedding')])
    assert seen == [(2, 3, 64, 64)]
    with pytest.raises(
        ValueError, match=re.escape("input_size is a positive integer or (height, width), received 'big'")
    ):
        make(input_size='big')


def test_never_trains(make):
    teacher = make()
    teacher.train()
    nn.Module.train(teacher.model, True)
    teacher.train(True)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    images, tap = torch.randn(4, 3, 32, 32), teacher.tap('embedding')
    first, second = teacher(images, [tap])[tap], teacher(images, [tap])[tap]
    assert torch.equal(first, second)  # drop path and dropout would differ
    assert not first.requires_grad


def test_copies_share_it(make):
    teacher = make()
    assert copy.deepcopy(teacher) is teacher


class TestWeights:
    @pytest.mark.parametrize('wrap', ['bare', 'state_dict', 'model', 'ddp', 'distillation'])
    def test_forms_of_a_checkpoint(self, swin, save_weights, tmp_path, wrap):
        state = torch.load(save_weights(swin()))
        prefixed = {f'module.{key}': value for key, value in state.items()}
        student = {**{f'student.{key}': value for key, value in state.items()}, 'terms.loss.weight': torch.ones(1)}
        forms = {
            'bare': state,
            'state_dict': dict(state_dict=state, meta=dict(epoch=1)),
            'model': dict(model=state),
            'ddp': dict(state_dict=prefixed),
            'distillation': dict(state_dict=student),
        }
        path = str(tmp_path / 'form.pth')
        torch.save(forms[wrap], path)
        teacher = Teacher.from_config(dict(swin(), checkpoint=path), preprocessor())
        for key, value in state.items():
            assert torch.equal(teacher.model.state_dict()[key], value), key

    def test_mmpretrains_ways_of_giving_weights_are_strict_too(self, swin, cnn, save_weights):
        path = save_weights(swin())
        for given in (dict(init_cfg=dict(type='Pretrained', checkpoint=path)), dict(pretrained=path)):
            assert Teacher.from_config(dict(swin(), **given), preprocessor()).checkpoint == path
        other = save_weights(cnn(), 'other.pth')
        with pytest.raises(CheckpointError, match='does not fit the teacher'):
            Teacher.from_config(dict(swin(), init_cfg=dict(type='Pretrained', checkpoint=other)), preprocessor())

    def test_none(self, swin):
        with pytest.raises(ValueError, match='teacher: ImageClassifier has no weights.*allow_random_weights=True'):
            Teacher.from_config(swin(), preprocessor())

    def test_weights_of_the_backbone_alone_are_not_a_teachers(self, swin, save_weights):
        cfg = swin()
        cfg['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=save_weights(swin()), prefix='backbone')
        with pytest.raises(ValueError, match='has no weights'):
            Teacher.from_config(cfg, preprocessor())

    def test_random_weights_have_to_be_asked_for(self, swin):
        teacher = Teacher.from_config(dict(swin(), allow_random_weights=True), preprocessor())
        assert teacher.checkpoint is None

    def test_timm_brings_its_own(self, monkeypatch, tmp_path):
        import timm

        asked = []
        create = timm.create_model

        def create_without_download(*args, pretrained=False, **kwargs):
            asked.append(pretrained)
            return create(*args, **kwargs)

        monkeypatch.setattr('timm.models.create_model', create_without_download)
        cfg = dict(type='TimmClassifier', model_name='resnet10t')
        teacher = Teacher.from_config(dict(cfg, pretrained=True), preprocessor())
        assert asked == [True]
        assert teacher.tap('embedding').channels == 512
        with pytest.raises(ValueError, match='teacher: TimmClassifier has no weights'):
            Teacher.from_config(cfg, preprocessor())
        # With other classes timm leaves the classifier random.
        message = 'the weights that timm publishes for TimmClassifier are for 1000 classes; for 10 its classifier'
        with pytest.raises(ValueError, match=message):
            Teacher.from_config(dict(cfg, pretrained=True, num_classes=10), preprocessor())
        # What a checkpoint replaces is not downloaded.
        path = str(tmp_path / 'weights.pth')
        torch.save(create('resnet10t', num_classes=10).state_dict(), path)
        asked.clear()
        Teacher.from_config(dict(cfg, pretrained=True, num_classes=10, checkpoint=path), preprocessor())
        assert asked == [False]
