# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A walk through MMPretrain's model index: every classification architecture as student and as teacher."""

import copy

import pytest
import torch
from mmpretrain.apis.model import ModelHub
from mmpretrain.structures import DataSample
from zoo import ARCHITECTURES

from common.configs import image_side
from rsd_mm import RSDDistiller

# Smaller images where the published size takes minutes on a CPU.
SIDES = {'replknet-31l_in21k-pre_3rdparty_in1k-384px': 128}


def load(name):
    """A model of the index, with its data preprocessor, and the side of its test images."""
    file = ModelHub.get(name).config
    model = copy.deepcopy(file.model)
    model.setdefault('data_preprocessor', file.get('data_preprocessor'))
    for module in (model, model.backbone):
        module.pop('init_cfg', None)  # nothing is downloaded
    return model, SIDES.get(name) or image_side(file)


def small_cnn(classes):
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=32),
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_as_student_and_as_teacher(name):
    model, side = load(name)
    student = copy.deepcopy(model)
    if student.head.type in ('EfficientFormerClsHead', 'LeViTClsHead'):
        student.head.distillation = False  # MMPretrain does not train their second head
    images = torch.randn(2, 3, side, side)
    samples = [DataSample().set_gt_label(i) for i in range(2)]

    distiller = RSDDistiller(student, dict(small_cnn(10), allow_random_weights=True)).train()
    total, log = distiller.parse_losses(distiller(images, samples, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    assert log['rsd_invariance'] > 0
    gradients = [parameter.grad for parameter in distiller.student.backbone.parameters() if parameter.requires_grad]
    # A config for linear probing freezes its backbone.
    assert not gradients or any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    del distiller

    distiller = RSDDistiller(small_cnn(10), dict(model, allow_random_weights=True)).train()
    before = copy.deepcopy(distiller.teacher.state_dict())
    losses = distiller(images, samples, mode='loss')
    assert torch.isfinite(losses['loss_rsd'])
    assert all(torch.equal(before[key], value) for key, value in distiller.teacher.state_dict().items())
