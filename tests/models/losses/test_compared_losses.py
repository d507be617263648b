# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The losses of the compared methods, against references written entry by entry from the papers' formulas."""

import math
import re

import pytest
import torch
from mmengine.registry import MODELS
from torch import distributed as dist
from torch import nn

from rsd_mm.models.losses import (
    cc_loss,
    dist_loss,
    dkd_loss,
    hint_loss,
    kd_loss,
    nce_loss,
    ofa_loss,
    rkd_loss,
    sdd_loss,
)


def softmax(row):
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [x / sum(exps) for x in exps]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def scaled(rows, tau):
    return [[x / tau for x in row] for row in rows]


def targets(labels):
    return [max(range(len(row)), key=row.__getitem__) for row in labels] if isinstance(labels[0], list) else labels


def kd_reference(s, t, tau=1.0):
    pairs = zip(scaled(s, tau), scaled(t, tau))
    return tau**2 * sum(kl(softmax(b), softmax(a)) for a, b in pairs) / len(s)


def dkd_reference(s, t, labels, alpha=1.0, beta=2.0, tau=1.0):
    total = 0.0
    for a, b, y in zip(scaled(s, tau), scaled(t, tau), targets(labels)):
        p, q = softmax(a), softmax(b)
        rest_p, rest_q = ([x / (1 - r[y]) for c, x in enumerate(r) if c != y] for r in (p, q))
        total += alpha * kl([q[y], 1 - q[y]], [p[y], 1 - p[y]]) + beta * kl(rest_q, rest_p)
    return tau**2 * total / len(s)


def pearson(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    cov = sum((a - mx) * (b - my) for a, b in zip(x, y))
    return cov / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def dist_reference(s, t, beta=1.0, gamma=1.0, tau=1.0):
    p, q = ([softmax(row) for row in scaled(x, tau)] for x in (s, t))
    inter = 1 - sum(pearson(a, b) for a, b in zip(p, q)) / len(p)
    columns = list(zip(zip(*p), zip(*q)))
    intra = 1 - sum(pearson(a, b) for a, b in columns) / len(columns)
    return tau**2 * (beta * inter + gamma * intra)


def ofa_reference(s, t, labels, eps=1.0, tau=1.0):
    total = 0.0
    for a, b, y in zip(scaled(s, tau), scaled(t, tau), targets(labels)):
        p, q = softmax(a), softmax(b)
        total -= sum(((q[c] + (c == y)) ** eps - (c == y)) * math.log(p[c]) for c in range(len(p)))
    return total / len(s)


def sdd_reference(s, t, labels, complementary=2.0, tau=1.0):
    total, count = 0.0, 0
    for regions_s, regions_t, y in zip(s, t, targets(labels)):
        right = [row.index(max(row)) == y for row in regions_t]
        for a, b, r in zip(scaled(regions_s, tau), scaled(regions_t, tau), right):
            total += (1.0 if r == right[0] else complementary) * kl(softmax(b), softmax(a))
            count += 1
    return tau**2 * total / count


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def norm(x):
    return math.sqrt(sum(a * a for a in x))


def rkd_reference(s, t, distance_weight=25.0, angle_weight=50.0):
    n = len(s)

    def distances(x):
        d = [[norm([p - q for p, q in zip(a, b)]) for b in x] for a in x]
        mean = sum(map(sum, d)) / (n * (n - 1))
        return [[value / mean for value in row] for row in d]

    def cosine(x, i, j, k):
        if i in (j, k):
            return 0.0
        a, b = ([p - q for p, q in zip(x[i], x[other])] for other in (j, k))
        return sum(p * q for p, q in zip(a, b)) / (norm(a) * norm(b))

    ds, dt = distances(s), distances(t)
    distance = sum(huber(ds[i][j] - dt[i][j]) for i in range(n) for j in range(n)) / n**2
    triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    angle = sum(huber(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triples) / n**3
    return distance_weight * distance + angle_weight * angle


def cc_reference(s, t):
    deviations = [[abs(a - b) for a, b in zip(x, y)] for x, y in zip(s, t)]
    return sum(sum(a * b for a, b in zip(x, y)) for x, y in zip(deviations, deviations[1:])) / (len(s) - 1)


def hint_reference(s, t):
    """Of maps of one size."""

    def flat(x):
        return [v for y in x for v in flat(y)] if isinstance(x, list) else [x]

    return sum((a - b) ** 2 for a, b in zip(flat(s), flat(t))) / len(flat(s))


LABELS = [0, 2, 1, 2, 4, 3]
SOFT = [[0.7 * (c == y) + 0.3 * (c == (y + 1) % 5) for c in range(5)] for y in LABELS]
# The function, its reference, the shapes of both sides, whether it takes labels, and other values of each option.
LOSSES = {
    'KDLoss': (kd_loss, kd_reference, (6, 5), (6, 5), False, dict(tau=3.0)),
    'DecoupledKDLoss': (dkd_loss, dkd_reference, (6, 5), (6, 5), True, dict(alpha=0.3, beta=5.0, tau=2.0)),
    'StrongerTeacherLoss': (dist_loss, dist_reference, (6, 5), (6, 5), False, dict(beta=0.3, gamma=2.0, tau=4.0)),
    'OFALoss': (ofa_loss, ofa_reference, (6, 5), (6, 5), True, dict(eps=1.4, tau=2.0)),
    'SDDLoss': (sdd_loss, sdd_reference, (6, 7, 5), (6, 7, 5), True, dict(complementary=3.0, tau=4.0)),
    'RKDLoss': (rkd_loss, rkd_reference, (6, 3), (6, 8), False, dict(distance_weight=1.0, angle_weight=7.0)),
    'CCLoss': (cc_loss, cc_reference, (6, 4), (6, 4), False, dict()),
    'HintLoss': (hint_loss, hint_reference, (3, 4, 2, 2), (3, 4, 2, 2), False, dict()),
}
WITH_LABELS = [name for name in LOSSES if LOSSES[name][4]]
COMPARE_SAMPLES = ['StrongerTeacherLoss', 'RKDLoss', 'CCLoss']


def inputs(name, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    s, t = (3 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in LOSSES[name][2:4])
    return (s, t, torch.tensor(LABELS)) if LOSSES[name][4] else (s, t)


def lists(values):
    return [value.tolist() for value in values]


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_matches_the_reference(name, dtype, tolerance):
    function, reference, *_ = LOSSES[name]
    values = inputs(name, dtype)
    value = function(*values)
    assert value.dtype == dtype
    assert float(value) == pytest.approx(reference(*lists(values)), rel=tolerance)


@pytest.mark.parametrize(('name', 'option'), [(name, option) for name in LOSSES for option in LOSSES[name][5]])
def test_each_option_has_its_effect(name, option):
    function, reference, *_, others = LOSSES[name]
    values, changed = inputs(name), {option: others[option]}
    value = function(*values, **changed)
    assert float(value) == pytest.approx(reference(*lists(values), **changed), rel=1e-12)
    assert abs(float(value - function(*values))) > 1e-3
    torch.testing.assert_close(MODELS.build(dict(type=name, loss_weight=1.0, **changed))(*values), value)


@pytest.mark.parametrize('name', LOSSES)
def test_module_has_the_functions_defaults_and_its_weight(name):
    values = inputs(name)
    module = MODELS.build(dict(type=name, loss_weight=3.0))
    assert isinstance(module, nn.Module)
    assert not module.state_dict()
    torch.testing.assert_close(module(*values), 3 * LOSSES[name][0](*values))
    default = 0.02 if name == 'CCLoss' else 1.0
    torch.testing.assert_close(MODELS.build(dict(type=name))(*values), default * LOSSES[name][0](*values))
    assert 'loss_weight=3.0' in repr(module)


@pytest.mark.parametrize('name', WITH_LABELS)
def test_soft_labels_count_by_their_largest_score(name):
    function, reference, *_, options = LOSSES[name]  # OFA's does not depend on labels with its default exponent
    s, t, labels = inputs(name)
    soft = torch.tensor(SOFT, dtype=torch.float64)
    expected = reference(s.tolist(), t.tolist(), SOFT, **options)
    assert float(function(s, t, soft, **options)) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(function(s, t, soft, **options), function(s, t, labels, **options))
    assert abs(float(function(s, t, labels.roll(1), **options)) - expected) > 1e-4


@pytest.mark.parametrize('name', LOSSES)
def test_gradients(name):
    s, *rest = inputs(name)
    assert torch.autograd.gradcheck(lambda s: LOSSES[name][0](s, *rest), s.requires_grad_())


@pytest.mark.parametrize('name', LOSSES)
def test_inputs_stay_and_the_teacher_gets_no_gradient(name):
    s, t, *rest = inputs(name)
    before = s.clone(), t.clone()
    value = LOSSES[name][0](s.requires_grad_(), t.requires_grad_(), *rest)
    value.backward()
    assert torch.equal(s.detach(), before[0])
    assert torch.equal(t.detach(), before[1])
    assert s.grad.abs().sum() > 0
    # CC's teacher side is trained through its projector.
    assert (t.grad is None) == (name != 'CCLoss')


# Cross entropy against a one-hot teacher is OFA's least value; the others are zero for a student that is its teacher.
@pytest.mark.parametrize('name', [name for name in LOSSES if name != 'OFALoss'])
def test_a_student_that_equals_its_teacher(name):
    _, t, *rest = inputs(name)
    assert float(LOSSES[name][0](t, t, *rest)) == pytest.approx(0, abs=1e-8)


def test_ofa_is_the_teachers_cross_entropy_for_an_exponent_of_one():
    s, t, labels = inputs('OFALoss')
    expected = torch.nn.functional.cross_entropy(s, t.softmax(dim=1))
    torch.testing.assert_close(ofa_loss(s, t, labels), expected)
    torch.testing.assert_close(ofa_loss(s, t, labels.roll(1)), expected)
    assert abs(ofa_loss(s, t, labels, eps=1.5) - ofa_loss(s, t, labels.roll(1), eps=1.5)) > 0.01


def test_dkd_with_its_own_weights_is_kd():
    """KD is TCKD + (1 - p_target) NCKD of the teacher (paper, equation 7)."""
    s, t, labels = inputs('DecoupledKDLoss')
    total = 0.0
    for a, b, y in zip(s, t, labels):
        p_target = b.softmax(dim=0)[y]
        total = total + dkd_loss(a[None], b[None], y[None], alpha=1.0, beta=float(1 - p_target))
    torch.testing.assert_close(total / len(s), kd_loss(s, t))


def test_sdd_of_the_whole_image_is_kd():
    s, t, labels = inputs('SDDLoss')
    torch.testing.assert_close(sdd_loss(s[:, :1], t[:, :1], labels, tau=2.0), kd_loss(s[:, 0], t[:, 0], tau=2.0))


def test_hints_of_different_sizes_meet_on_the_coarser_grid():
    s, t = torch.randn(2, 3, 8, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = ((s.view(2, 3, 4, 2, 4).mean(dim=3) - t) ** 2).mean()
    torch.testing.assert_close(hint_loss(s, t), expected)
    torch.testing.assert_close(hint_loss(t, s), expected)


def test_rkd_does_not_change_under_rotation_scale_and_shift():
    s, t = inputs('RKDLoss')
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(rkd_loss(2.5 * s @ rotation + 1, t), rkd_loss(s, t))


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    s, t, *rest = inputs(name, dtype)
    function = LOSSES[name][0]
    value = function(s.requires_grad_(), t, *rest)
    value.backward()
    assert (value.dtype, s.grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, function(s.detach().float(), t.float(), *rest), rtol=1e-6, atol=0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(
            function(s.float(), t.float(), *rest), function(s, t, *rest).detach(), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize('name', LOSSES)
def test_a_collapsed_student_has_a_finite_value_and_gradient(name):
    s, t, *rest = inputs(name, torch.float32)
    for constant in (0.0, 1e4):
        s = torch.full_like(s, constant).requires_grad_()
        value = LOSSES[name][0](s, t, *rest)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(s.grad).all()
        assert s.grad.abs().max() < 1e6


@pytest.mark.parametrize('name', ['KDLoss', 'DecoupledKDLoss', 'StrongerTeacherLoss', 'OFALoss', 'SDDLoss'])
def test_very_confident_logits_are_finite(name):
    s, t, *rest = inputs(name, torch.float32)
    s = (1e4 * s).requires_grad_()
    value = LOSSES[name][0](s, -1e4 * t, *rest)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize('name', LOSSES)
def test_one_sample(name):
    values = [value[:1] for value in inputs(name)]
    if name in COMPARE_SAMPLES:
        with pytest.raises(ValueError, match='at least 2 samples a step; received 1.*drop_last=True'):
            LOSSES[name][0](*values)
    else:
        expected = LOSSES[name][1](*lists(values))
        assert float(LOSSES[name][0](*values)) == pytest.approx(expected, rel=1e-12)


class TestBadInput:
    @pytest.mark.parametrize('name', LOSSES)
    def test_shapes(self, name):
        s, t, *rest = inputs(name)
        message = f'{tuple(s[1:].shape)} of the student and {tuple(t.shape)} of the teacher'
        with pytest.raises(ValueError, match=re.escape(message)):
            LOSSES[name][0](s[1:], t, *rest)
        with pytest.raises(ValueError, match='compares two tensors'):
            LOSSES[name][0](s[0], t[0], *rest)

    @pytest.mark.parametrize('name', WITH_LABELS)
    def test_labels(self, name):
        s, t, labels = inputs(name)
        with pytest.raises(ValueError, match=re.escape('of 6 samples, received the shape (5,)')):
            LOSSES[name][0](s, t, labels[1:])

    @pytest.mark.parametrize('name', LOSSES)
    @pytest.mark.parametrize('side', ['student', 'teacher'])
    def test_nan_is_passed_on_to_the_health_hook(self, name, side):
        s, t, *rest = inputs(name)
        (s if side == 'student' else t).view(-1)[3] = float('nan')
        assert torch.isnan(LOSSES[name][0](s, t, *rest))
        assert torch.isnan(MODELS.build(dict(type=name))(s, t, *rest))

    @pytest.mark.parametrize(
        ('name', 'option'),
        [(name, option) for name in LOSSES for option in ('loss_weight', *LOSSES[name][5])],
    )
    def test_options(self, name, option):
        with pytest.raises(ValueError, match=f'{name}: {option} must be a number >=? 0, received -1'):
            MODELS.build(dict(type=name, **{option: -1}))


def test_names_of_mmrazor_are_left_alone():
    taken = ['ATLoss', 'CRDLoss', 'DISTLoss', 'DKDLoss', 'KLDivergence', 'L2Loss', 'DistanceWiseRKD', 'AngleWiseRKD']
    assert not set(taken) & set(MODELS.module_dict)


def crd(**options):
    return MODELS.build(dict(type='CRDMemoryLoss', **{**dict(num_samples=20, channels=4, negatives=6), **options}))


def crd_batch(indices=(3, 11, 7), labels=(0, 1, 1), width=4):
    generator = torch.Generator().manual_seed(2)
    s, t = (torch.randn(len(indices), width, generator=generator) for _ in range(2))
    return s, t, torch.tensor(labels), torch.tensor(indices)


class TestCRD:
    def test_matches_the_reference(self):
        """The whole loss, entry by entry, and the memory after it."""
        loss = crd(loss_weight=2.0, tau=0.5, momentum=0.3)
        memories = [memory.double().tolist() for memory in (loss.t_memory, loss.s_memory)]
        s, t, labels, indices = crd_batch()
        drawn = []
        loss.__dict__['_draw'] = lambda labels: drawn.append(type(loss)._draw(loss, labels)) or drawn[0]
        value = loss(s, t, labels, indices)

        units = [[[x / norm(row) for x in row] for row in f.double().tolist()] for f in (s, t)]
        total, n, k = 0.0, 20, 6
        for unit, memory in zip(units, memories):
            exps = []
            for row, positive, negatives in zip(unit, indices.tolist(), drawn[0].tolist()):
                exps.append(
                    [math.exp(sum(a * b for a, b in zip(row, memory[i])) / 0.5) for i in [positive, *negatives]]
                )
            z = sum(map(sum, exps)) / (len(exps) * (k + 1)) * n
            for row in exps:
                p = [x / z for x in row]
                total -= math.log(p[0] / (p[0] + k / n)) + sum(math.log((k / n) / (x + k / n)) for x in p[1:])
        assert float(value) == pytest.approx(2.0 * total / 3, rel=1e-5)

        for memory, before, unit in ((loss.s_memory, memories[1], units[0]), (loss.t_memory, memories[0], units[1])):
            for index, row in zip(indices.tolist(), unit):
                mixed = [0.3 * a + 0.7 * b for a, b in zip(before[index], row)]
                assert memory[index].tolist() == pytest.approx([x / norm(mixed) for x in mixed], rel=1e-5)
            others = [i for i in range(20) if i not in indices]
            assert torch.equal(memory[others], torch.tensor(before)[others])

    def test_negatives_are_of_other_classes_and_equally_likely(self):
        loss = crd(negatives=40000)
        loss.labels[:] = torch.arange(20) % 4
        loss.labels[19] = -1  # not seen yet
        drawn = loss._draw(torch.tensor([1, 3]))
        for row, label in zip(drawn, (1, 3)):
            allowed = [i for i in range(20) if loss.labels[i] != label]
            counts = torch.bincount(row, minlength=20)
            assert set(counts.nonzero().flatten().tolist()) == set(allowed)
            assert (counts[allowed] / 40000 - 1 / len(allowed)).abs().max() < 0.01
        assert not torch.equal(loss._draw(torch.tensor([1, 3])), drawn)

    def test_leaves_the_random_state_alone(self):
        loss, batch = crd(), crd_batch()
        state = torch.get_rng_state()
        loss(*batch)
        assert torch.equal(torch.get_rng_state(), state)

    def test_trains_both_sides_and_not_the_memory(self):
        loss = crd()
        s, t, labels, indices = crd_batch()
        loss(s.requires_grad_(), t.requires_grad_(), labels, indices).backward()
        assert s.grad.abs().sum() > 0
        assert t.grad.abs().sum() > 0
        assert not list(loss.parameters())
        assert not any(buffer.requires_grad for buffer in loss.buffers())

    def test_memory_is_saved_and_restored(self):
        loss, batch = crd(), crd_batch()
        loss(*batch)
        other = crd()
        other.load_state_dict(loss.state_dict())
        torch.testing.assert_close(other(*batch), loss(*batch), rtol=0, atol=0)

    @pytest.mark.parametrize(
        'options', [dict(negatives=12), dict(momentum=0.9), dict(tau=0.5), dict(loss_weight=0.3), dict(num_samples=40)]
    )
    def test_each_option_has_its_effect(self, options):
        values = []
        for changed in ({}, options):
            torch.manual_seed(0)
            loss = crd(**changed)
            loss(*crd_batch())
            values.append(float(loss(*crd_batch())))
        assert abs(values[0] - values[1]) > 1e-3

    def test_soft_labels_count_by_their_largest_score(self):
        s, t, labels, indices = crd_batch()
        values = []
        for target in (labels, 0.6 * torch.nn.functional.one_hot(labels, 3) + 0.1):
            torch.manual_seed(0)
            values.append(crd()(s, t, target, indices))
        assert torch.equal(*values)

    def test_half_precision(self):
        s, t, labels, indices = crd_batch()
        torch.manual_seed(0)
        expected = crd()(s.half(), t.half(), labels, indices)
        assert expected.dtype == torch.float32
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            torch.testing.assert_close(crd()(s.half(), t.half(), labels, indices), expected)

    def test_nce_is_finite_for_extreme_scores(self):
        scores = torch.tensor([[300.0], [-300.0]], requires_grad=True)
        value = nce_loss(scores, scores.detach().expand(2, 4), torch.tensor(2.0), 100)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(scores.grad).all()

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (dict(negatives=0), 'negatives must be a positive integer, received 0'),
            (dict(num_samples=1), 'num_samples must be a positive integer, received 1'),
            (dict(momentum=1.0), 'momentum must be less than 1, received 1.0'),
            (dict(tau=0), 'tau must be a number > 0, received 0'),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            crd(**options)

    def test_bad_batches(self):
        with pytest.raises(ValueError, match='an image has the index 20, but its memory is for 20'):
            crd()(*crd_batch(indices=(3, 20, 7)))
        with pytest.raises(ValueError, match='its memory is 4 wide, the embeddings 5'):
            crd()(*crd_batch(width=5))
        loss = crd()
        loss.labels[:] = 1
        with pytest.raises(ValueError, match='all images of the dataset are of one class'):
            loss(*crd_batch(labels=(1, 1, 1)))


def learn_shards(rank, world):
    """Learn a shard of every batch, and compare with the memory of one process that saw it all."""
    torch.manual_seed(0)
    loss = crd(momentum=0.3)
    expected = [memory.clone() for memory in (loss.s_memory, loss.t_memory)]
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        s, t = (torch.randn(6, 4, generator=generator) for _ in range(2))
        indices = torch.randperm(20, generator=generator)[:6]
        mine = slice(3 * rank, 3 * rank + 3)
        value = loss(s[mine], t[mine], indices[mine] % 3, indices[mine])
        assert torch.isfinite(value)
        for memory, feature in zip(expected, (s, t)):
            mixed = 0.3 * memory[indices] + 0.7 * torch.nn.functional.normalize(feature, dim=1)
            memory[indices] = torch.nn.functional.normalize(mixed, dim=1)
            assert (loss.labels[indices] == indices % 3).all()
    torch.testing.assert_close(loss.s_memory, expected[0])
    torch.testing.assert_close(loss.t_memory, expected[1])
    normalizers = [torch.empty(2) for _ in range(world)]
    dist.all_gather(normalizers, loss.normalizers)
    assert torch.equal(*normalizers)


def test_crds_memory_is_the_same_on_every_process(run_ranks):
    run_ranks(learn_shards, 2)
