# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import copy
import pickle
import re

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.structures import DataSample

from rsd_mm import RSDDistiller, RSDProjector, rsd_loss, rsd_loss_parts
from rsd_mm.models.distillers import TeacherClassifier
from rsd_mm.utils import CheckpointError, load_strictly
from rsd_mm.utils.weights import use_nested_keys

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
HALF = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)


def raw_batch(size=8, side=32):
    """A batch as the data loader gives it."""
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
    return dict(inputs=images, data_samples=[DataSample().set_gt_label(i % 10) for i in range(size)])


def train_steps(model, steps=3, size=8):
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    model.train()
    return [model.train_step(raw_batch(size), optimizer) for _ in range(steps)]


class TestLoss:
    def test_is_the_students_own_plus_rsd(self, make_distiller, batch):
        distiller = make_distiller(loss=dict(loss_weight=0.3, kappa=0.02)).train()
        inputs, samples = batch()
        plain = copy.deepcopy(distiller)
        losses = distiller(inputs, samples, mode='loss')
        assert set(losses) == {'loss', 'loss_rsd', 'rsd_invariance', 'rsd_decorrelation'}
        torch.testing.assert_close(losses['loss'], plain.student.loss(inputs, samples)['loss'])

        # Recomputed through MMPretrain's own interfaces, without taps.
        student = plain.student.train()
        z_s = student.head.pre_logits(student.extract_feat(inputs))
        z_t = plain.teacher.model.extract_feat(inputs, stage='pre_logits')
        projected = plain.terms['loss_rsd'].projector(z_s)
        torch.testing.assert_close(losses['loss_rsd'], 0.3 * rsd_loss(projected, z_t, kappa=0.02))
        invariance, decorrelation = rsd_loss_parts(projected, z_t)
        torch.testing.assert_close(losses['rsd_invariance'], invariance.detach())
        torch.testing.assert_close(losses['rsd_decorrelation'], decorrelation.detach())

    def test_parts_are_logged_and_not_added(self, make_distiller, batch):
        distiller = make_distiller().train()
        losses = distiller(*batch(), mode='loss')
        total, logged = distiller.parse_losses(losses)
        torch.testing.assert_close(total, losses['loss'] + losses['loss_rsd'])
        assert set(logged) == {'loss', 'loss_task', 'loss_rsd', 'rsd_invariance', 'rsd_decorrelation'}
        torch.testing.assert_close(logged['loss'], total)
        torch.testing.assert_close(logged['loss_task'], losses['loss'])

    def test_one_forward_of_each_network(self, make_distiller):
        distiller = make_distiller()
        calls = []
        for name, module in (('student', distiller.student.backbone), ('teacher', distiller.teacher.model.backbone)):
            module.register_forward_hook(lambda *args, name=name: calls.append(name))
        train_steps(distiller, 2)
        assert sorted(calls) == ['student', 'student', 'teacher', 'teacher']

    def test_the_students_statistics_are_updated_once(self, make_distiller):
        distiller = make_distiller()
        train_steps(distiller, 3)
        assert distiller.student.backbone.bn1.num_batches_tracked == 3
        assert distiller.terms['loss_rsd'].projector.layers[1].num_batches_tracked == 3

    def test_every_trainable_parameter_gets_a_gradient(self, make_distiller, batch):
        distiller = make_distiller().train()
        total, _ = distiller.parse_losses(distiller(*batch(), mode='loss'))
        total.backward()
        without = [name for name, parameter in distiller.named_parameters() if parameter.grad is None]
        assert not without
        assert distiller.terms['loss_rsd'].projector.layers[0].weight.grad.abs().sum() > 0

    def test_training_lowers_it(self, make_distiller):
        distiller = make_distiller().train()
        data = raw_batch(16)
        optimizer = OptimWrapper(torch.optim.AdamW(distiller.parameters(), lr=5e-3))
        values = [float(distiller.train_step(copy.deepcopy(data), optimizer)['rsd_invariance']) for _ in range(25)]
        assert values[-1] < 0.3 * values[0]

    def test_head_options_keep_working(self, cnn, make_distiller, batch):
        student = cnn()
        student['head'].update(loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1), cal_acc=True)
        losses = make_distiller(student).train()(*batch(), mode='loss')
        assert 'accuracy_top-1' in losses

    def test_half_precision(self, make_distiller, batch):
        distiller = make_distiller().train()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            losses = distiller(*batch(), mode='loss')
        assert losses['loss_rsd'].dtype == torch.float32
        assert torch.isfinite(losses['loss_rsd'])


class TestImages:
    def test_teacher_sees_the_mixed_images_in_its_own_normalization(self, cnn, swin, save_weights):
        student = dict(cnn(), train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
        teacher = dict(swin(), checkpoint=save_weights(swin()), data_preprocessor=HALF)
        distiller = RSDDistiller(student, teacher, data_preprocessor=dict(IMAGENET, num_classes=10)).train()
        seen = {}
        for name, module in (('student', distiller.student.backbone), ('teacher', distiller.teacher.model.backbone)):
            module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0].clone()}))
        data = raw_batch()
        losses = distiller._run_forward(distiller.data_preprocessor(copy.deepcopy(data), True), mode='loss')
        assert torch.isfinite(losses['loss_rsd'])
        mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ('mean', 'std'))
        rgb = seen['student'] * std + mean
        torch.testing.assert_close(seen['teacher'], (rgb - 127.5) / 127.5, rtol=1e-4, atol=1e-4)
        # They are mixed indeed, so they are not the loader's images.
        assert not torch.allclose(rgb, data['inputs'].flip(1).float(), atol=1.0)

    def test_data_preprocessor_of_the_run_is_the_students(self, make_distiller):
        distiller = make_distiller(data_preprocessor=dict(IMAGENET, num_classes=10))
        assert distiller.data_preprocessor is distiller.student.data_preprocessor
        torch.testing.assert_close(distiller.data_preprocessor.mean.flatten(), torch.tensor(IMAGENET['mean']))

    def test_students_own_preprocessor_comes_first(self, cnn, make_distiller):
        distiller = make_distiller(dict(cnn(), data_preprocessor=HALF), data_preprocessor=IMAGENET)
        torch.testing.assert_close(distiller.data_preprocessor.mean.flatten(), torch.full((3,), 127.5))


class TestStudent:
    def test_predict_and_tensor_are_the_students_own(self, make_distiller, batch):
        distiller = make_distiller().eval()
        inputs, samples = batch()
        with torch.no_grad():
            assert torch.equal(distiller(inputs), distiller.student(inputs))
            ours = distiller(inputs, copy.deepcopy(samples), mode='predict')
            own = distiller.student(inputs, copy.deepcopy(samples), mode='predict')
        assert all(torch.equal(a.pred_score, b.pred_score) for a, b in zip(ours, own))
        assert torch.equal(distiller.extract_feat(inputs)[0], distiller.student.extract_feat(inputs)[0])

    def test_evaluation_does_not_run_the_teacher(self, make_distiller, batch):
        distiller = make_distiller().eval()
        calls = []
        distiller.teacher.model.register_forward_hook(lambda *args: calls.append(1))
        distiller.val_step(raw_batch())
        assert not calls

    def test_checkpoint_is_loaded_strictly_and_survives_initialization(self, cnn, make_distiller, save_weights):
        path = save_weights(cnn(), 'student.pth')
        distiller = make_distiller(dict(cnn(), checkpoint=path))
        distiller.init_weights()
        for key, value in torch.load(path).items():
            assert torch.equal(distiller.student.state_dict()[key], value), key
        with pytest.raises(CheckpointError, match='does not fit the student'):
            make_distiller(dict(cnn(classes=7), checkpoint=path))

    def test_without_a_checkpoint_it_is_initialized_by_the_runner(self, make_distiller):
        distiller = make_distiller()
        before = distiller.student.head.fc.weight.clone()
        distiller.init_weights()
        assert not torch.equal(before, distiller.student.head.fc.weight)

    def test_layer_depth_is_the_students(self, make_distiller, swin):
        distiller = make_distiller(swin())
        assert distiller.get_layer_depth('student.head.fc.weight') == distiller.student.get_layer_depth(
            'head.fc.weight'
        )
        depth, layers = distiller.get_layer_depth('terms.loss_rsd.projector.layers.0.weight')
        assert depth == layers - 1


class TestTeacherStaysOut:
    def test_frozen_bit_for_bit_through_real_steps(self, make_distiller):
        distiller = make_distiller()
        before = copy.deepcopy(distiller.teacher.model.state_dict())
        train_steps(distiller, 4)
        after = distiller.teacher.model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not any(module.training for module in distiller.teacher.modules())

    def test_of_parameters_modules_and_state(self, make_distiller):
        distiller = make_distiller()
        teacher = {id(tensor) for tensor in distiller.teacher.state_dict(keep_vars=True).values()}
        assert not any(id(parameter) in teacher for parameter in distiller.parameters())
        assert not any(id(buffer) in teacher for buffer in distiller.buffers())
        assert all(key.startswith(('student.', 'terms.loss_rsd.')) for key in distiller.state_dict())
        assert distiller.teacher not in list(distiller.modules())

    def test_of_averaged_copies(self, make_distiller):
        distiller = make_distiller()
        ema = ExponentialMovingAverage(distiller, momentum=0.1)
        assert ema.module.teacher is distiller.teacher
        assert ema.module.student is not distiller.student
        train_steps(distiller, 1)
        ema.update_parameters(distiller)
        assert not any('teacher' in key for key in ema.state_dict())

    def test_copies_and_pickles_after_steps_work_on_their_own(self, make_distiller, batch):
        distiller = make_distiller()
        train_steps(distiller, 1)
        inputs, samples = batch()
        clones = [copy.deepcopy(distiller), pickle.loads(pickle.dumps(distiller))]
        expected = distiller.train()(inputs, samples, mode='loss')['loss_rsd']
        for clone in clones:
            torch.testing.assert_close(clone.train()(inputs, samples, mode='loss')['loss_rsd'], expected)
        train_steps(clones[0], 1)
        assert not torch.equal(clones[0].student.head.fc.weight, distiller.student.head.fc.weight)

    def test_follows_the_images_to_another_device(self, make_distiller):
        distiller = make_distiller()
        distiller.teacher.to('meta')
        tap = distiller.teacher.tap('embedding')
        out = distiller.teacher(torch.randn(2, 3, 32, 32, device='meta'), [tap])[tap]
        assert out.device.type == 'meta'


class TestReferences:
    def test_published_models_by_config_path(self, batch):
        distiller = RSDDistiller(
            student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', head=dict(num_classes=7)),
            teacher=dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', allow_random_weights=True),
        ).train()
        projector = distiller.terms['loss_rsd'].projector
        assert (projector.in_channels, projector.out_channels) == (512, 768)
        assert distiller.student.head.fc.out_features == 7
        # Classes differ (7 and 1000), which embeddings do not mind.
        losses = distiller(*batch(2, classes=7, side=224), mode='loss')
        assert torch.isfinite(losses['loss_rsd'])

    def test_works_without_a_default_scope(self, cnn, swin):
        from mmengine.registry import DefaultScope

        current, DefaultScope._instance_dict = DefaultScope._instance_dict, type(DefaultScope._instance_dict)()
        try:
            distiller = RSDDistiller(cnn(), dict(swin(), allow_random_weights=True))
        finally:
            DefaultScope._instance_dict = current
        assert isinstance(distiller.terms['loss_rsd'].projector, RSDProjector)


class TestTerms:
    def test_further_terms_are_added_under_their_names(self, make_distiller, batch):
        extra = dict(
            loss_logits=dict(student_tap='logits', teacher_tap='logits', loss=dict(type='RSDLoss', loss_weight=1.0))
        )
        distiller = make_distiller(terms=extra).train()
        losses = distiller(*batch(), mode='loss')
        assert {'loss_logits', 'logits_invariance', 'logits_decorrelation', 'loss_rsd'} <= set(losses)
        total, _ = distiller.parse_losses(losses)
        torch.testing.assert_close(total, losses['loss'] + losses['loss_rsd'] + losses['loss_logits'])

    def test_losses_without_parts(self, make_distiller, batch):
        term = dict(student_tap='logits', teacher_tap='logits', loss=dict(type='mmpretrain.CosineSimilarityLoss'))
        losses = make_distiller(terms=dict(loss_cosine=term)).train()(*batch(), mode='loss')
        assert losses['loss_cosine'].requires_grad

    def test_rsd_on_logits(self, make_distiller, batch):
        distiller = make_distiller(student_tap='logits', teacher_tap='logits', projector=None).train()
        assert distiller.terms['loss_rsd'].projector is None
        losses = distiller(*batch(), mode='loss')
        assert losses['rsd_invariance'] > 0

    def test_projectors_init_cfg_is_applied_by_the_runner(self, make_distiller):
        distiller = make_distiller(projector=dict(init_cfg=dict(type='Constant', layer='Linear', val=0.5)))
        distiller.init_weights()
        assert (distiller.terms['loss_rsd'].projector.layers[0].weight == 0.5).all()

    def test_another_expansion(self, make_distiller):
        projector = make_distiller(projector=dict(expansion=4)).terms['loss_rsd'].projector
        assert projector.layers[0].out_features == 4 * 32


class TestBadConfigs:
    """What a user can get wrong in a config, and what it says, when the model is built."""

    def test_unknown_option(self, make_distiller):
        message = "model: RSDDistiller has no option 'kapa'. It takes: student, teacher, projector, loss, student_tap"
        with pytest.raises(ValueError, match=re.escape(message)):
            make_distiller(kapa=0.1)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (dict(loss=dict(kapa=0.1)), "loss_rsd.loss: RSDLoss has no option 'kapa' (did you mean 'kappa'?)"),
            (dict(projector=dict(expantion=2)), "loss_rsd.projector: RSDProjector has no option 'expantion' (did you"),
            (dict(loss=dict(type='NoSuchLoss')), "loss_rsd.loss: no module is registered as 'NoSuchLoss'"),
            (dict(loss=dict(kappa=-1)), 'must be a number >= 0, received -1'),
            (dict(loss=dict(eps=0)), 'must be a number > 0, received 0'),
            (dict(projector=dict(expansion=0)), 'received 0 with in_channels=32'),
            (
                dict(projector=dict(in_channels=64)),
                "loss_rsd.projector: in_channels=64, but the student's embedding (input of 'head.fc') has 32 channels",
            ),
            (
                dict(projector=dict(out_channels=768)),
                "out_channels=768, but the teacher's embedding (input of 'head.fc') has 24 channels",
            ),
            (dict(projector=None), "has 32 channels and the teacher's embedding (input of 'head.fc') has 24. Give the"),
            (dict(student_tap='backbone.layer2'), "the width of the student's backbone.layer2"),
            (dict(student_tap='backbone.layr2'), "student: ImageClassifier has no module 'backbone.layr2' to read"),
            (dict(terms=dict(kd=dict(loss=dict(type='RSDLoss')))), 'contain "loss"'),
            (dict(terms=dict(loss_kd=dict())), "terms.loss_kd: a term needs a 'loss'"),
            (dict(terms=dict(loss_kd=dict(los=1))), "terms.loss_kd: a term has no option 'los' (did you mean 'loss'?)"),
        ],
    )
    def test_parts(self, make_distiller, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_distiller(**options)

    def test_different_classes_are_refused_on_logits(self, cnn, make_distiller):
        message = 'a term on logits compares class with class, but the student has 7 classes and the teacher 10'
        with pytest.raises(ValueError, match=message):
            make_distiller(cnn(classes=7), student_tap='logits', teacher_tap='logits')
        make_distiller(cnn(classes=7))  # embeddings do not mind

    @pytest.mark.parametrize(
        ('student', 'message'),
        [
            (dict(), "expected a dict with either 'type' (an inline model) or 'cfg_path'"),
            (dict(type='A', cfg_path='b'), "expected a dict with either 'type'"),
            ('resnet18', "received 'resnet18'"),
            (dict(cfg_path='missing.py'), "student: the config 'missing.py' is not a file (looked in '"),
            (
                dict(cfg_path='mmpretrain::resnet/resnet19_8xb32_in1k.py'),
                "mmpretrain has no config 'resnet/resnet19_8xb32_in1k.py', did you mean 'resnet/resnet1",
            ),
            (dict(cfg_path='mmcls::resnet/resnet18.py'), "of the package 'mmcls', which is not installed"),
            (
                dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', pretrained='a.pth'),
                "pretrained is True (the published weights) or False, received 'a.pth'",
            ),
            (dict(cfg_path='mmpretrain::_base_/default_runtime.py'), "has no 'model'"),
            (
                dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', chekpoint='a.pth'),
                "unexpected keyword argument 'chekpoint'",
            ),
        ],
    )
    def test_student(self, swin, student, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            RSDDistiller(student, dict(swin(), allow_random_weights=True))

    def test_student_that_is_no_model_of_mmengine(self, swin):
        cfg = dict(type='LinearNeck', in_channels=3, out_channels=3)
        with pytest.raises(
            ValueError, match='student: LinearNeck builds a LinearNeck; a student is a model of mmengine'
        ):
            RSDDistiller(cfg, dict(swin(), allow_random_weights=True))

    # A config without an entry in the model index, and an entry without weights.
    @pytest.mark.parametrize('name', ['_base_/models/resnet18.py', 'hivit/hivit-tiny-p16_16xb64_in1k.py'])
    def test_published_weights_of_an_unpublished_config(self, cnn, name):
        message = (
            f"teacher: pretrained=True, but mmpretrain's model index gives no weights for '{name}'. Give 'checkpoint'"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            RSDDistiller(cnn(), dict(cfg_path=f'mmpretrain::{name}', pretrained=True))

    def test_name_of_two_losses(self, make_distiller, batch):
        distiller = make_distiller(
            terms=dict(loss=dict(student_tap='logits', teacher_tap='logits', loss=dict(type='RSDLoss')))
        )
        with pytest.raises(ValueError, match="'loss' is the name of two losses; rename the term 'loss'"):
            distiller.train()(*batch(), mode='loss')


class TestBadBatches:
    def test_one_sample(self, make_distiller, batch):
        with pytest.raises(ValueError, match='at least 2 samples a step; received 1.*drop_last=True'):
            make_distiller().train()(*batch(1), mode='loss')

    def test_features_are_observed_by_name(self, make_distiller, batch):
        distiller = make_distiller().train()
        seen = {}
        distiller.observe = seen.update
        distiller(*batch(), mode='loss')
        shapes = {name: tuple(feature.shape) for name, feature in seen.items()}
        place = "embedding (input of 'head.fc')"
        assert shapes == {f"student's {place}": (8, 32), f"teacher's {place}": (8, 24)}

    @pytest.mark.parametrize('side', ['student', 'teacher'])
    def test_nan_is_passed_on_to_the_health_hook(self, make_distiller, batch, side):
        distiller = make_distiller().train()
        model = distiller.student if side == 'student' else distiller.teacher.model
        model.neck.register_forward_hook(lambda module, args, out: tuple(x * float('nan') for x in out))
        assert torch.isnan(distiller(*batch(), mode='loss')['loss_rsd'])


def test_teacher_as_a_classifier(make_distiller, batch):
    distiller = make_distiller()
    model = TeacherClassifier(distiller)
    inputs, samples = batch()
    expected = distiller.teacher.model(inputs)
    torch.testing.assert_close(model(inputs), expected)
    predicted = model(inputs, samples, mode='predict')
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in predicted]), expected.softmax(dim=1))
    assert torch.equal(torch.cat([sample.pred_label for sample in predicted]), expected.argmax(dim=1))
    assert not model.state_dict()
    with pytest.raises(
        ValueError, match="evaluated in mode 'tensor', or 'predict' with data samples; received mode 'loss'"
    ):
        model(inputs, samples, mode='loss')


def test_a_student_of_timm_is_saved_and_resumed_whole(make_distiller, tmp_path):
    """MMPretrain's wrapper renames keys in hooks that, within another model, lose what is loaded."""
    timm = dict(type='TimmClassifier', model_name='resnet10t', num_classes=10)
    first, second = make_distiller(student=dict(timm)), make_distiller(student=dict(timm))
    state = first.state_dict()
    assert {'student.model.conv1.0.weight', 'terms.loss_rsd.projector.layers.0.weight'} <= state.keys()
    assert not torch.equal(state['student.model.fc.weight'], second.state_dict()['student.model.fc.weight'])
    load_state_dict(second, copy.deepcopy(state), strict=True)  # mmengine's, which resumes
    assert all(torch.equal(value, state[key]) for key, value in second.state_dict().items())
    second.load_state_dict(state)
    # The student of such a checkpoint fits the plain model, under whose names timm knows it.
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(state_dict=state), path)
    plain = MODELS.build(dict(timm))
    kept = plain.register_state_dict_post_hook(lambda module, state, prefix, metadata: None)
    use_nested_keys(plain)
    assert list(plain._state_dict_hooks) == [kept.id]  # its own hooks are removed, and no others
    plain = MODELS.build(dict(timm))
    load_strictly(plain, path)
    assert torch.equal(plain.state_dict()['fc.weight'], state['student.model.fc.weight'])
