# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import pytest
from mmengine.config import Config

from rsd_mm.models.reference import gives_bgr, resolve_model, student_config

RESNET = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'


def test_inline_is_taken_as_it_is(cnn):
    cfg = dict(cnn(), checkpoint='a.pth')
    reference = resolve_model(cfg, 'student')
    assert reference.checkpoint == 'a.pth'
    assert reference.origin == 'ImageClassifier'
    assert 'checkpoint' not in reference.model
    assert reference.model['head']['in_channels'] == 32
    assert cfg['checkpoint'] == 'a.pth'  # the config itself is not changed


def test_changes_are_merged_into_the_file(tmp_path):
    head = dict(num_classes=7, loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1))
    model = resolve_model(dict(cfg_path=RESNET, head=head), 'student').model
    assert model.head.num_classes == 7
    assert model.head.in_channels == 512
    assert model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    assert model.backbone.depth == 18


def test_changes_that_do_not_fit():
    path = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
    changes = dict(backbone=dict(arch=dict(embed_dims=64)))
    with pytest.raises(ValueError, match=r"student: the changes do not fit the model of 'mmpretrain::.*_delete_=True"):
        resolve_model(dict(cfg_path=path, **changes), 'student')
    changes['backbone']['arch']['_delete_'] = True
    assert resolve_model(dict(cfg_path=path, **changes), 'student').model.backbone.arch == dict(embed_dims=64)


def test_published_weights_are_found_in_the_model_index():
    cfg = dict(cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', pretrained=True)
    checkpoint = resolve_model(cfg, 'teacher').checkpoint
    assert checkpoint.startswith('https://')
    assert checkpoint.endswith('swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth')
    # A checkpoint of one's own comes before.
    assert resolve_model(dict(cfg, checkpoint='mine.pth'), 'teacher').checkpoint == 'mine.pth'


def test_any_config_file_works(tmp_path, cnn):
    path = tmp_path / 'mine.py'
    path.write_text(f'model = {cnn()!r}\ndata_preprocessor = dict(mean=[1.0], std=[2.0])\n')
    model = resolve_model(dict(cfg_path=str(path)), 'student').model
    assert model.data_preprocessor == dict(mean=[1.0], std=[2.0])
    assert model.type == 'ImageClassifier'
    with pytest.raises(ValueError, match='pretrained=True finds published weights for the configs of a package'):
        resolve_model(dict(cfg_path=str(path), pretrained=True), 'student')


def test_order_of_data_preprocessors(tmp_path, cnn):
    path = tmp_path / 'mine.py'
    path.write_text(f'model = {cnn()!r}\ndata_preprocessor = dict(num_classes=1, to_rgb=True)\n')
    cfg = dict(cfg_path=str(path))
    run = dict(num_classes=2)
    assert resolve_model(cfg, 'student').model.data_preprocessor.num_classes == 1
    assert resolve_model(cfg, 'student', run).model.data_preprocessor == run
    own = dict(cfg, data_preprocessor=dict(num_classes=3))
    # One's own is merged into the file's, like any other change.
    assert resolve_model(own, 'student', run).model.data_preprocessor == dict(num_classes=3, to_rgb=True)


def test_student_config_of_a_distillation_and_of_a_plain_run(cnn):
    plain = Config(dict(model=cnn()))
    assert student_config(plain) is plain.model
    distilled = Config(
        dict(model=dict(type='RSDDistiller', student=cnn(), teacher=cnn()), data_preprocessor=dict(std=[1]))
    )
    student = student_config(distilled)
    assert student['type'] == 'ImageClassifier'
    assert student['data_preprocessor'] == dict(std=[1])


@pytest.mark.parametrize(
    ('steps', 'expected'),
    [
        (['LoadImageFromFile', 'PackInputs'], True),
        (['LoadCheckedImage', 'PackInputs'], True),  # it reads files, too
        (['PackInputs'], False),
        ([], None),
    ],
)
def test_the_order_of_channels_that_images_come_in(steps, expected):
    pipeline = [dict(type=step) for step in steps]
    assert gives_bgr(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))) is expected
