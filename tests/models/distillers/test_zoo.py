# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A walk through MMPretrain's model index: every classification architecture as student and as teacher."""

import copy

import pytest
import torch
from mmpretrain.apis.model import ModelHub
from mmpretrain.structures import DataSample

from rsd_mm import RSDDistiller

# The model with the fewest FLOPs of every combination of classifier, backbone, neck and head. ChineseCLIP, which
# compares images with texts, is left out.
ARCHITECTURES = [
    'beit-base-p16_beit-in21k-pre_3rdparty_in1k',
    'cspdarknet50_3rdparty_8xb32_in1k',
    'cspresnext50_3rdparty_8xb32_in1k',
    'cspresnet50_3rdparty_8xb32_in1k',
    'conformer-tiny-p16_3rdparty_in1k',
    'convmixer-1024-20_3rdparty_in1k',
    'convnext-v2-atto_fcmae-pre_3rdparty_in1k',
    'davit-tiny_3rdparty_in1k',
    'deit3-small-p16_3rdparty_in1k',
    'densenet121_3rdparty_in1k',
    'deit-tiny-distilled_3rdparty_in1k',
    'edgenext-xxsmall_3rdparty_in1k',
    'efficientformer-l1_3rdparty_8xb128_in1k',
    'efficientnet-b0_3rdparty-ra-noisystudent_in1k',
    'efficientnetv2-b0_3rdparty_in1k',
    'hrnet-w18_3rdparty_8xb32-ssld_in1k',
    'hivit-tiny-p16_16xb64_in1k',
    'hornet-tiny-gf_3rdparty_in1k',
    'inception-v3_3rdparty_8xb32_in1k',
    'levit-128s_3rdparty_in1k',
    'mvitv2-tiny_3rdparty_in1k',
    'mixmim-base_mixmim-pre_8xb128-coslr-100e_in1k',
    'mlp-mixer-base-p16_3rdparty_64xb64_in1k',
    'vit-small-p16_mocov3-pre_8xb128-linear-coslr-90e_in1k',
    'mobilenet-v2_8xb32_in1k',
    'mobilenet-v3-small-050_3rdparty_in1k',
    'mobileone-s0_8xb32_in1k',
    'mobilevit-xxsmall_3rdparty_in1k',
    'twins-pcpvt-small_3rdparty_8xb128_in1k',
    'poolformer-s12_3rdparty_32xb128_in1k',
    'pvig-tiny_3rdparty_in1k',
    'riformer-s12_in1k',
    'regnetx-400mf_8xb128_in1k',
    'replknet-31l_in21k-pre_3rdparty_in1k-384px',
    'repmlp-base_3rdparty_8xb64_in1k',
    'repvgg-a0_8xb32_in1k',
    'res2net50-w14-s8_3rdparty_8xb32_in1k',
    'resnext50-32x4d_8xb32_in1k',
    'resnet50_spark-pre_300e_in1k',
    'resnetv1c50_8xb32_in1k',
    'resnetv1d50_8xb32_in1k',
    'resnet18_8xb16_cifar10',
    'revvit-small_3rdparty_in1k',
    'seresnet50_8xb32_in1k',
    'twins-svt-small_3rdparty_8xb128_in1k',
    'shufflenet-v1-1x_16xb64_in1k',
    'shufflenet-v2-1x_16xb64_in1k',
    'swin-tiny_16xb64_in1k',
    'swinv2-tiny-w8_3rdparty_in1k-256px',
    't2t-vit-t-14_8xb64_in1k',
    'tnt-small-p16_3rdparty_in1k',
    'tinyvit-5m_3rdparty_in1k',
    'van-tiny_3rdparty_in1k',
    'vgg11_8xb32_in1k',
    'vit-tiny-p14_eva02-in21k-pre_3rdparty_in1k-336px',
    'vig-tiny_3rdparty_in1k',
    'vit-base-p16_mff-300e-pre_8xb2048-linear-coslr-90e_in1k',
    'vit-base-p16_eva-mae-style-pre_8xb128-coslr-100e_in1k',
    'deit-tiny_4xb256_in1k',
    'xcit-nano-12-p16_3rdparty-dist_in1k',
]


# Smaller images where the published size takes minutes on a CPU.
SIDES = {'replknet-31l_in21k-pre_3rdparty_in1k-384px': 128}


def load(name):
    """A model of the index, with its data preprocessor, and the side of its test images."""
    file = ModelHub.get(name).config
    model = copy.deepcopy(file.model)
    model.setdefault('data_preprocessor', file.get('data_preprocessor'))
    for module in (model, model.backbone):
        module.pop('init_cfg', None)  # nothing is downloaded
    sides = (
        [SIDES[name]]
        if name in SIDES
        else [
            step.get('crop_size') or step.get('scale')
            for step in file.test_dataloader.dataset.pipeline
            if step.type in ('CenterCrop', 'Resize')
        ]
    )
    side = sides[-1] if sides else 32  # CIFAR's images come as they are
    return model, side if isinstance(side, int) else side[0]


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
