# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Options that make a step faster, and what a step must not do."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.utils import digit_version
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import peak_memory
from rsd_mm.models.distillers import InputBridge

HALVES = ['bfloat16'] + ['float16'] * (digit_version(torch.__version__) >= digit_version('2.3'))
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3)


class Watch(TorchDispatchMode):
    """Notes every operation."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


class Counting:
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield Counting()
    torch._dynamo.reset()


@pytest.fixture
def weights(cnn, swin, save_weights):
    return dict(cnn=save_weights(cnn(), 'cnn.pth'), swin=save_weights(swin(), 'swin.pth'))


@pytest.fixture
def make(cnn, swin, weights, make_distiller):
    """A distiller of a CNN, taught by another or by a Swin, whose options are those of the teacher."""

    def build(teacher='cnn', options=None, **changes):
        torch.manual_seed(0)
        cfg = dict((cnn if teacher == 'cnn' else swin)(), checkpoint=weights[teacher], **options or {})
        return make_distiller(teacher=cfg, **changes)

    return build


def embedding(distiller, images):
    tap = distiller.teacher_taps[0]
    return distiller.teacher(images, [tap])[tap]


def seen(module):
    """What goes into and comes out of a module."""
    kept = []
    module.register_forward_hook(lambda module, args, output: kept.append((args[0], output)))
    return kept


def one_step(distiller, images, samples):
    optimizer = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=0.1))
    distiller.train()
    total, log = distiller.parse_losses(distiller(images, samples, mode='loss'))
    optimizer.update_params(total)
    return log


class TestPrecision:
    @pytest.mark.parametrize('precision', HALVES)
    def test_the_teacher_computes_in_it_and_the_student_does_not(self, make, batch, precision):
        images, samples = batch()
        distiller = make('swin', dict(precision=precision))
        inside = seen(distiller.teacher.model.backbone.stages[0].blocks[0].ffn.layers[1])
        own = seen(distiller.student.backbone.layer1)
        assert torch.isfinite(one_step(distiller, images, samples)['loss_rsd'])
        assert inside[0][1].dtype == getattr(torch, precision)
        assert own[0][1].dtype == torch.float32
        half, full = embedding(distiller, images).float(), embedding(make('swin'), images)
        error = ((half - full).norm() / full.norm()).item()
        assert 1e-7 < error < 2e-2  # bfloat16 has 8 bits

    def test_full_precision_beside_a_student_in_half(self, make, batch):
        images, samples = batch()
        distiller = make('swin', dict(precision='float32'))
        inside = seen(distiller.teacher.model.backbone.stages[0].blocks[0].ffn.layers[1])
        with torch.autocast('cpu', torch.bfloat16):
            distiller.train()(images, samples, mode='loss')
        assert inside[0][1].dtype == torch.float32

    def test_logits_of_regions(self, make, batch):
        tap = dict(type='ScaleLogits', scales=(1, 2))
        term = dict(student_tap=tap, teacher_tap=tap, loss=dict(type='SDDLoss'))
        distiller = make('cnn', dict(precision='bfloat16'), terms=dict(loss_sdd=term))
        assert torch.isfinite(one_step(distiller, *batch())['loss_sdd'])


class TestChannelsLast:
    @pytest.mark.parametrize('side', ['student', 'teacher'])
    def test_images_and_convolutions_have_the_layout(self, make, batch, side):
        images, samples = batch()
        given = dict(options=dict(channels_last=True)) if side == 'teacher' else dict(channels_last=True)
        distiller, plain = make(**given), make()
        network = distiller.student if side == 'student' else distiller.teacher.model
        inside = seen(network.backbone.layer1[0].conv1)
        log = one_step(distiller, images, samples)
        assert inside[0][0].is_contiguous(memory_format=torch.channels_last)
        assert not inside[0][0].is_contiguous()
        assert network.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
        expected = one_step(plain, images, samples)
        torch.testing.assert_close(log, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(embedding(distiller, images), embedding(plain, images), rtol=1e-4, atol=1e-5)


class TestCompile:
    def test_teacher(self, make, batch, backend):
        distiller = make(options=dict(compile=dict(backend=backend)))
        plain = make()
        keys = list(plain.teacher.model.state_dict())
        for size in (8, 8, 6, 5, 3):
            images = torch.randn(size, 3, 32, 32)
            torch.testing.assert_close(embedding(distiller, images), embedding(plain, images), rtol=1e-4, atol=1e-5)
        # One for the first size, one for any size, of the backbone and of the neck.
        assert 1 <= backend.graphs <= 4
        assert list(distiller.teacher.model.state_dict()) == keys
        assert copy.deepcopy(distiller).teacher is distiller.teacher

    def test_stages_are_read_from_a_compiled_teacher(self, make, batch, backend):
        tap = dict(student_tap='stage2', teacher_tap='stage2')
        term = dict(tap, projector=dict(type='HintRegressor'), loss=dict(type='HintLoss'))
        images, _ = batch()
        distiller = make(options=dict(compile=dict(backend=backend)), terms=dict(loss_hint=term))
        found = distiller.teacher(images, distiller.teacher_taps)
        expected = make(terms=dict(loss_hint=term)).teacher(images, distiller.teacher_taps)
        assert backend.graphs
        for tap in distiller.teacher_taps:
            torch.testing.assert_close(found[tap], expected[tap], rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="lies within 'backbone.layer1', which is compiled and has run"):
            distiller.teacher.tap('backbone.layer1.0')

    def test_student_and_terms(self, make, batch, backend):
        images, samples = batch()
        distiller, plain = make(compile=dict(backend=backend)), make()
        averaged = ExponentialMovingAverage(distiller, momentum=0.5)
        averaged.update_parameters(distiller)  # the first copies
        assert list(distiller.state_dict()) == list(plain.state_dict())
        graphs = []
        for _ in range(4):
            log, expected = one_step(distiller, images, samples), one_step(plain, images, samples)
            torch.testing.assert_close(log, expected, rtol=1e-3, atol=1e-3)
            graphs.append(backend.graphs)
        assert 2 <= graphs[1] == graphs[-1] <= 6  # backbone, term and neck, and nothing is compiled again
        averaged.update_parameters(distiller)
        copied = averaged.module.student.backbone
        assert copied._compiled_call_impl is None  # or it would run the weights of the student itself
        assert not torch.equal(copied.conv1.weight, distiller.student.backbone.conv1.weight)
        with torch.no_grad():
            assert not torch.allclose(averaged(images), distiller.eval()(images))


@pytest.mark.parametrize(
    ('options', 'changes', 'message'),
    [
        (dict(precision='bf16'), {}, "precision is one of 'float32', 'bfloat16', 'float16', or None"),
        (dict(channels_last='yes'), {}, 'teacher: channels_last is True or False'),
        (dict(compile='max-autotune'), {}, 'teacher: compile is True, False or a dict'),
        (dict(compile=dict(backend='indoctor')), {}, "teacher: torch.compile does not take .*'indoctor'"),
        ({}, dict(compile=dict(speed=11)), "model: torch.compile does not take .*'speed'"),
        ({}, dict(channels_last=1), 'model: channels_last is True or False'),
    ],
)
def test_bad_options(make, options, changes, message):
    with pytest.raises(ValueError, match=message):
        make(options=options, **changes)


class TestAStep:
    def test_does_not_wait_for_the_device(self, make, batch):
        """On fake tensors of a GPU, which hold no numbers to be read."""
        distiller = make('swin').train()
        images, samples = batch()
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            for module in (distiller, distiller.teacher):
                module._apply(lambda x: mode.from_tensor(x).to('cuda'))
            for sample in samples:
                sample.set_gt_label(torch.zeros(1, dtype=torch.int64, device='cuda'))
            losses = distiller(mode.from_tensor(images).to('cuda'), samples, mode='loss')
            total, _ = distiller.parse_losses(losses)
            assert total.device.type == 'cuda'

    def test_backward_reads_no_number(self, make, batch):
        distiller = make('swin').train()
        total, _ = distiller.parse_losses(distiller(*batch(), mode='loss'))
        with Watch() as watch:
            total.backward()
        assert 'aten::convolution_backward' in watch.names
        assert 'aten::_local_scalar_dense' not in watch.names

    def test_teacher_adds_nothing_to_the_peak_of_memory(self, make, batch):
        """Its temporary memory is gone before the student's activations are there."""
        distiller = make('swin').train()
        inputs, samples = batch(16)
        taps = distiller.teacher_taps
        teacher = peak_memory(lambda: distiller.teacher(inputs, taps))
        alone = peak_memory(lambda: distiller.student(inputs, samples, mode='loss'))
        whole = peak_memory(lambda: distiller.loss(inputs, samples))
        assert whole < alone + teacher / 4

    def test_operations_do_not_grow_with_the_batch(self, make, batch):
        distiller = make('swin').train()
        counts = []
        for size in (4, 16):
            images, samples = batch(size)
            with Watch() as watch:
                distiller.loss(images, samples)
            own = [name for name in watch.names if name != 'aten::cat']
            counts.append(len(own))
        assert counts[0] == counts[1]

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_images_are_bridged_by_one_operation_if_at_all(self, dtype):
        build = dict(type='ClsDataPreprocessor')
        student, teacher = MODELS.build(dict(build, mean=[0.0] * 3, std=[1.0] * 3)), MODELS.build(dict(build, **HALF))
        images = torch.randn(2, 3, 8, 8, dtype=dtype)
        for other, expected in ((student, []), (teacher, ['aten::addcmul'])):
            bridge = InputBridge(student, other)
            with Watch() as watch:
                out = bridge(images)
            large = [name for name in watch.names if name not in ('aten::_to_copy', 'aten::detach')]
            assert large == expected
            assert (out.data_ptr() == images.data_ptr()) is (not expected)
