# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What people can get wrong, and what they are told: one table, with the whole message of each.

In a message ``{tmp}`` is the test's folder and ``<any>`` what depends on the version of a library.
"""

import argparse
import io
import os
import re
import subprocess
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from torch.utils.data import DataLoader

from common.launch import check_data_folders, load_config, run_distributed
from rsd_mm import rsd_loss
from rsd_mm.utils import load_strictly, read_checkpoint, state_dict_of
from rsd_mm.utils.checkpoint import newest_checkpoint


class Bomb:
    """Would end the tests if its pickle were run."""

    def __reduce__(self):
        return os._exit, (13,)


class Case:
    """What the cases are made of."""

    def __init__(self, tmp, cnn, swin, save_weights, root):
        self.tmp, self.cnn, self.swin, self.save_weights, self.root = tmp, cnn, swin, save_weights, root

    def file(self, content, name='a.pth'):
        path = self.tmp / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return str(path)

    def saved(self, content, **options):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    def distiller(self, student=None, teacher=None, **options):
        teacher = dict(self.swin(), allow_random_weights=True) if teacher is None else teacher
        return MODELS.build(dict(type='RSDDistiller', student=student or self.cnn(), teacher=teacher, **options))

    def image(self, name, part=1.0, content=None):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        if content is None:
            content = cv2.imencode(os.path.splitext(name)[1], pixels)[1].tobytes()
        path = self.file(content[: int(len(content) * part)], name)
        return TRANSFORMS.build(dict(type='LoadCheckedImage'))(dict(img_path=path))

    def data(self, labels=None, crop=None, classes=10, batch_size=8, drop_last=True, **options):
        pipeline = [dict(type='RandomCrop', crop_size=crop)] if crop else []
        dataset = DATASETS.build(dict(type='SklearnDigits', pipeline=[*pipeline, dict(type='PackInputs')], **options))
        dataset._metainfo['classes'] = tuple(map(str, range(classes)))
        if labels is not None:
            dataset.get_gt_labels = lambda: np.array(labels)
        loader = DataLoader(dataset, batch_size=batch_size, drop_last=drop_last)
        HOOKS.build(dict(type='DistillCheckHook')).before_train(
            SimpleNamespace(model=self.distiller(), train_dataloader=loader)
        )

    def command(self, config=None, **options):
        config = str(config or self.root / 'configs/quickstart/vit_digits.py')
        values = dict(config=config, work_dir=str(self.tmp), amp=False, cfg_options=None, launcher='none', local_rank=0)
        return load_config(argparse.Namespace(**{**values, **options}))

    def script(self, *arguments):
        command = [str(self.root / 'tools' / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        raise SystemExit(done.stderr.replace(str(self.root), '').strip())


def gpus(visible):
    """Let a machine seem to have GPUs."""
    from common import launch

    patch = pytest.MonkeyPatch()
    patch.setattr(launch, 'get_device', lambda: 'cuda')
    patch.setattr(torch.cuda, 'is_available', lambda: True)
    patch.setattr(torch.cuda, 'device_count', lambda: visible)
    patch.setenv('LOCAL_RANK', '4')
    patch.setenv('LOCAL_WORLD_SIZE', '8')
    try:
        run_distributed(Config(dict(launcher='pytorch')), lambda: None)
    finally:
        patch.undo()


def no_internet(url):
    patch = pytest.MonkeyPatch()

    def fail(*args, **kwargs):
        raise OSError('no route to host')

    patch.setattr(torch.hub, 'download_url_to_file', fail)
    patch.setattr(torch.hub, 'get_dir', lambda: '/nowhere')
    patch.setattr(os, 'makedirs', lambda *args, **kwargs: None)
    try:
        read_checkpoint(url)
    finally:
        patch.undo()


RESNET = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
NAN = torch.tensor([[1.0, float('nan')], [1.0, 2.0]])

CODE = (
    'holds Python objects (<any>_exit) that only running code from the file could restore, so it is '
    'refused. Give a file of tensors: if you trust this one, load it where it was made and save its '
    "state dict with torch.save(model.state_dict(), 'FILE')."
)
IMAGE = (
    "Replace it or take it out of the dataset; to train without such images, set corrupt='skip' of LoadCheckedImage."
)
FORM = (
    "student: expected a dict with either 'type' (an inline model) or 'cfg_path' (a config file, "
    "'mmpretrain::resnet/resnet18_8xb32_in1k.py' for example), received "
)
CASES = {
    # Checkpoints.
    'missing': (
        lambda c: read_checkpoint('no.pth'),
        ("Checkpoint 'no.pth' is not a file (looked in '<any>/no.pth'). Give the path of an existing file or a URL."),
    ),
    'empty': (
        lambda c: read_checkpoint(c.file(b'')),
        ("Checkpoint '{tmp}/a.pth' is empty (0 bytes). Get or save it again."),
    ),
    'web page': (
        lambda c: read_checkpoint(c.file(b'<!DOCTYPE html><html>log in</html>')),
        (
            "Checkpoint '{tmp}/a.pth' is a web page, not a checkpoint: it begins with '<!DOCTYPE "
            "html><html>log in</html>'. The download answered with a log-in or error page; get the file "
            'itself.'
        ),
    ),
    'truncated': (
        lambda c: read_checkpoint(c.file(c.saved(dict(w=torch.ones(999)))[:3000])),
        (
            "Checkpoint '{tmp}/a.pth' is truncated or not a PyTorch checkpoint (PytorchStreamReader<any>). "
            'Get or save it again.'
        ),
    ),
    'text': (
        lambda c: read_checkpoint(c.file(b'weights')),
        (
            "Checkpoint '{tmp}/a.pth' is truncated or not a PyTorch checkpoint (in no format that torch.save "
            'writes). Get or save it again.'
        ),
    ),
    'code': (lambda c: read_checkpoint(c.file(dict(state_dict=Bomb()))), ("Checkpoint '{tmp}/a.pth' " + CODE)),
    'code in the old format': (
        lambda c: read_checkpoint(c.file(c.saved(Bomb(), _use_new_zipfile_serialization=False))),
        ("Checkpoint '{tmp}/a.pth' " + CODE),
    ),
    'code as a teacher': (
        lambda c: c.distiller(teacher=dict(c.swin(), checkpoint=c.file(Bomb()))),
        ("Checkpoint '{tmp}/a.pth' " + CODE),
    ),
    'code as a student': (
        lambda c: c.distiller(dict(c.cnn(), checkpoint=c.file(Bomb()))),
        ("Checkpoint '{tmp}/a.pth' " + CODE),
    ),
    'code to resume from': (
        lambda c: (c.file(Bomb(), 'epoch_1.pth'), newest_checkpoint(str(c.tmp))),
        (
            "There is no complete checkpoint in '{tmp}' to resume from:\n  Checkpoint '{tmp}/epoch_1.pth' "
            + CODE
            + '\nLeave --resume out to start anew.'
        ),
    ),
    'tensor': (
        lambda c: read_checkpoint(c.file(torch.ones(3))),
        ("Checkpoint '{tmp}/a.pth' holds a Tensor, not the dict of a checkpoint or a state dict."),
    ),
    'no weights': (
        lambda c: state_dict_of(dict(epoch=1, lr=0.1), 'a.pth'),
        (
            "Checkpoint 'a.pth' holds no state dict: found 'epoch', 'lr'. Expected tensors by name, bare or "
            "under 'state_dict' or 'model'."
        ),
    ),
    'nothing': (
        lambda c: state_dict_of({}, 'a.pth'),
        (
            "Checkpoint 'a.pth' holds no state dict: found nothing. Expected tensors by name, bare or under "
            "'state_dict' or 'model'."
        ),
    ),
    'other classes': (
        lambda c: c.distiller(teacher=dict(c.swin(7), checkpoint=c.save_weights(c.swin()))),
        (
            "Checkpoint '{tmp}/teacher.pth' does not fit the teacher (ImageClassifier):\n  2 of another shape:"
            ' head.fc.weight ((10, 24) in the file, (7, 24) in the teacher), head.fc.bias ((10) in the file, '
            '(7) in the teacher)\nGive the checkpoint of this very architecture and class count, or change the'
            ' teacher to match it.'
        ),
    ),
    'other architecture': (
        lambda c: load_strictly(MODELS.build(c.cnn()), c.file(dict(w=torch.ones(1))), 'student'),
        (
            "Checkpoint '{tmp}/a.pth' does not fit the student (ImageClassifier):\n  102 missing: "
            'backbone.conv1.weight, backbone.bn1.weight, backbone.bn1.bias, backbone.bn1.running_mean, '
            'backbone.bn1.running_var, backbone.layer1.0.conv1.weight, backbone.layer1.0.bn1.weight, '
            'backbone.layer1.0.bn1.bias, backbone.layer1.0.bn1.running_mean, '
            'backbone.layer1.0.bn1.running_var, ... and 92 more\n  1 unexpected: w\nGive the checkpoint of this'
            ' very architecture and class count, or change the student to match it.'
        ),
    ),
    'no internet': (
        lambda c: no_internet('https://example.org/w.pth'),
        (
            "Checkpoint 'https://example.org/w.pth' could not be downloaded (no route to host). Without "
            "internet, put the file at '/nowhere/checkpoints/w.pth', or set `checkpoint` to where it is."
        ),
    ),
    # Configs.
    'unknown option': (
        lambda c: c.distiller(kapa=1),
        (
            "model: RSDDistiller has no option 'kapa'. It takes: student, teacher, projector, loss, "
            'student_tap, teacher_tap, terms, data_preprocessor, init_cfg, channels_last, compile.'
        ),
    ),
    'unknown option of the loss': (
        lambda c: c.distiller(loss=dict(kapa=1)),
        (
            "loss_rsd.loss: RSDLoss has no option 'kapa' (did you mean 'kappa'?). It takes: loss_weight, "
            'kappa, eps, sync.'
        ),
    ),
    'unknown option of the projector': (
        lambda c: c.distiller(projector=dict(expantion=1)),
        (
            "loss_rsd.projector: RSDProjector has no option 'expantion' (did you mean 'expansion'?). It "
            'takes: in_channels, out_channels, expansion, init_cfg.'
        ),
    ),
    'unknown loss': (
        lambda c: c.distiller(loss=dict(type='NoLoss')),
        (
            "loss_rsd.loss: no module is registered as 'NoLoss'. If it is your own, import its file with "
            'custom_imports in the config.'
        ),
    ),
    'negative kappa': (
        lambda c: c.distiller(loss=dict(kappa=-1)),
        ('RSD: kappa, the weight of the decorrelation, must be a number >= 0, received -1. The paper uses 0.01.'),
    ),
    'eps of zero': (
        lambda c: c.distiller(loss=dict(eps=0)),
        (
            "RSD: eps, added to the standard deviation, must be a number > 0, received 0. The authors' "
            'release uses 1e-5.'
        ),
    ),
    'negative weight': (
        lambda c: c.distiller(loss=dict(loss_weight=-1)),
        ('RSDLoss: loss_weight must be a number >= 0, received -1.'),
    ),
    'expansion of zero': (
        lambda c: c.distiller(projector=dict(expansion=0)),
        (
            'RSDProjector: expansion, the hidden width over in_channels, must be a number > 0 that leaves at '
            "least one hidden unit, received 0 with in_channels=32. The authors' release uses 2."
        ),
    ),
    'input width': (
        lambda c: c.distiller(projector=dict(in_channels=64)),
        (
            "loss_rsd.projector: in_channels=64, but the student's embedding (input of 'head.fc') has 32 "
            'channels. Set 32, or leave in_channels out: it is inferred.'
        ),
    ),
    'output width': (
        lambda c: c.distiller(projector=dict(out_channels=64)),
        (
            "loss_rsd.projector: out_channels=64, but the teacher's embedding (input of 'head.fc') has 24 "
            'channels. Set 24, or leave out_channels out: it is inferred.'
        ),
    ),
    'no projector': (
        lambda c: c.distiller(projector=None),
        (
            "loss_rsd: the student's embedding (input of 'head.fc') has 32 channels and the teacher's "
            "embedding (input of 'head.fc') has 24. Give the term a projector, for example "
            "dict(type='RSDProjector')."
        ),
    ),
    'unknown tap': (
        lambda c: c.distiller(student_tap='backbone.layr2'),
        (
            "student: ImageClassifier has no module 'backbone.layr2' to read. Allowed are 'embedding', "
            "'logits', 'stage1' to 'stage4' and the paths of its modules, for example 'backbone.layer2', "
            "'backbone.layer2.1', 'backbone.layer2.0'."
        ),
    ),
    'tap of unknown width': (
        lambda c: c.distiller(student_tap='backbone.layer2'),
        (
            "loss_rsd.projector: the width of the student's backbone.layer2 (output of 'backbone.layer2') "
            'cannot be told before it runs; set in_channels.'
        ),
    ),
    'name of a term': (
        lambda c: c.distiller(terms=dict(kd=dict(loss=dict(type='RSDLoss')))),
        (
            'The name of a distillation term has to contain "loss", since mmengine adds up the values that '
            "are called so; received 'kd'. Call it 'loss_kd'."
        ),
    ),
    'term without a loss': (
        lambda c: c.distiller(terms=dict(loss_kd={})),
        ("terms.loss_kd: a term needs a 'loss', for example dict(type='RSDLoss')."),
    ),
    'unknown option of a term': (
        lambda c: c.distiller(terms=dict(loss_kd=dict(los=1))),
        (
            "terms.loss_kd: a term has no option 'los' (did you mean 'loss'?). It takes: student_tap, "
            'teacher_tap, projector, teacher_projector, loss.'
        ),
    ),
    'logits of other classes': (
        lambda c: c.distiller(c.cnn(7), student_tap='logits', teacher_tap='logits'),
        (
            'terms.loss_rsd: a term on logits compares class with class, but the student has 7 classes and '
            'the teacher 10. Compare embeddings instead, or take a teacher of the same classes.'
        ),
    ),
    'student of two forms': (
        lambda c: c.distiller(dict(type='A', cfg_path='b')),
        (FORM + "a dict with the keys 'type', 'cfg_path'."),
    ),
    'student by name': (lambda c: c.distiller('resnet18'), (FORM + "'resnet18'.")),
    'missing config of a student': (
        lambda c: c.distiller(dict(cfg_path='no.py')),
        (
            "student: the config 'no.py' is not a file (looked in '<any>/no.py'). For one of MMPretrain's "
            "own, write cfg_path='mmpretrain::...'."
        ),
    ),
    'misspelt config': (
        lambda c: c.distiller(dict(cfg_path='mmpretrain::resnet/resnet18_8xb23_in1k.py')),
        (
            "student: mmpretrain has no config 'resnet/resnet18_8xb23_in1k.py', did you mean "
            "'resnet/resnet18_8xb32_in1k.py'?."
        ),
    ),
    'package that is not there': (
        lambda c: c.distiller(dict(cfg_path='mmcls::resnet/resnet18.py')),
        ("student: the config 'mmcls::resnet/resnet18.py' is of the package 'mmcls', which is not installed."),
    ),
    'pretrained with a path': (
        lambda c: c.distiller(dict(cfg_path=RESNET, pretrained='a.pth')),
        (
            "student: with 'cfg_path', pretrained is True (the published weights) or False, received 'a.pth'."
            " For a file of weights, use 'checkpoint'."
        ),
    ),
    'teacher without weights': (
        lambda c: c.distiller(teacher=c.swin()),
        (
            "teacher: ImageClassifier has no weights, and a random teacher teaches nothing. Set 'checkpoint' "
            'to a path or URL, or pretrained=True with a cfg_path of MMPretrain, or, for a test run, '
            'allow_random_weights=True.'
        ),
    ),
    'size of the teacher': (
        lambda c: c.distiller(teacher=dict(c.swin(), allow_random_weights=True, input_size=-1)),
        ('teacher: input_size is a positive integer or (height, width), received -1.'),
    ),
    'channels of the teacher': (
        lambda c: c.distiller(teacher=dict(c.swin(), allow_random_weights=True, flip_channels='bgr')),
        ("teacher: flip_channels is True, False or None (told by the config), received 'bgr'."),
    ),
    'unknown signal': (
        lambda c: HOOKS.build(dict(type='InterruptHook', signals=['TERM'])),
        ("InterruptHook: signals is a list of names such as 'SIGTERM' or 'SIGINT', received 'TERM'."),
    ),
    # Data.
    'one sample': (
        lambda c: rsd_loss(torch.ones(1, 3), torch.ones(1, 3)),
        (
            'RSD correlates features over the batch, so a process needs at least 2 samples a step; received '
            '1. If this is the last batch of an epoch, set drop_last=True in train_dataloader; otherwise '
            'raise its batch_size.'
        ),
    ),
    'other widths': (
        lambda c: rsd_loss(torch.ones(2, 3), torch.ones(2, 4)),
        (
            'RSD compares two features of one shape (B, D); received s_feature (2, 3) and t_feature (2, 4). '
            "If the widths differ, project the student's feature with RSDProjector; if a feature has more "
            'dimensions, pool it first.'
        ),
    ),
    'nan': (
        lambda c: rsd_loss(NAN, torch.ones(2, 2)),
        (
            "RSD: the student's feature (s_feature) holds NaN or inf in 1 of 4 values. Lower the learning "
            "rate or the loss weight if it is the student's; check the weights and the input normalization if"
            " it is the teacher's."
        ),
    ),
    'truncated JPEG': (
        lambda c: c.image('a.jpg', 0.6),
        ("Image '{tmp}/a.jpg' can't be read: the JPEG is truncated. " + IMAGE),
    ),
    'truncated PNG': (
        lambda c: c.image('a.png', 0.6),
        ("Image '{tmp}/a.png' can't be read: it is truncated, or no image. " + IMAGE),
    ),
    'empty image': (
        lambda c: c.image('a.png', 0.0),
        ("Image '{tmp}/a.png' can't be read: the file is empty. " + IMAGE),
    ),
    'web page as an image': (
        lambda c: c.image('a.jpg', content=b'<html>'),
        ("Image '{tmp}/a.jpg' can't be read: it is truncated, or no image. " + IMAGE),
    ),
    'missing image': (
        lambda c: TRANSFORMS.build(dict(type='LoadCheckedImage'))(dict(img_path='no.jpg')),
        ("Image 'no.jpg' can't be read: [Errno 2] No such file or directory: 'no.jpg'. " + IMAGE),
    ),
    'option for corrupt images': (
        lambda c: TRANSFORMS.build(dict(type='LoadCheckedImage', corrupt='ignore')),
        ("LoadCheckedImage: corrupt is 'raise' or 'skip', received 'ignore'."),
    ),
    'smaller than the crop': (
        lambda c: c.data(crop=32),
        (
            'train_dataloader: the first image is 8 x 8 after RandomCrop, which is to give 32 x 32: images '
            'are smaller than the crop. Resize them before it.'
        ),
    ),
    'classes of the dataset': (
        lambda c: c.data(classes=7),
        (
            'The training dataset has 7 classes, the student 10. Set student=dict(head=dict(num_classes=7)) '
            'in the model of the config, and data_preprocessor=dict(num_classes=7).'
        ),
    ),
    'label beyond the classes': (
        lambda c: c.data(labels=[0, 10]),
        (
            'The training dataset has labels from 0 to 10, but the student has 10 classes, 0 to 9. Correct '
            'the annotation file, or num_classes of the student.'
        ),
    ),
    'last batch of one': (
        lambda c: c.data(indices=17, drop_last=False),
        (
            'train_dataloader: with 17 samples for a process and batch_size=8, the last batch of an epoch has'
            ' 1 sample, over which nothing can be correlated. Set drop_last=True in train_dataloader, or '
            'change batch_size.'
        ),
    ),
    'batch of one': (
        lambda c: c.data(batch_size=1),
        (
            'train_dataloader: batch_size=1, but distillation correlates features over the batch of a '
            'process, so it needs at least 2, and better 64 or more.'
        ),
    ),
    'split': (lambda c: c.data(split='val'), ("SklearnDigits: split is one of train, test, received 'val'.")),
    # Command lines.
    'no config': (lambda c: c.command('no.py'), ("'no.py' is not a config file (looked in '<any>/no.py').")),
    'work dir through a file': (
        lambda c: (c.file(b'', 'f'), c.command(work_dir=str(c.tmp / 'f' / 'work'))),
        ("The work dir '{tmp}/f/work' cannot be written: Not a directory. Give another one with --work-dir."),
    ),
    'more processes than GPUs': (
        lambda c: gpus(4),
        ('8 processes were started on this machine, but 4 GPUs are visible. Start one per GPU.'),
    ),
    'Slurm without a GPU': (
        lambda c: run_distributed(Config(dict(launcher='slurm')), lambda: None),
        (
            '--launcher slurm needs an accelerator, and none is visible. On CPUs, use tools/dist_train.sh or '
            'tools/dist_test.sh.'
        ),
    ),
    'no dataset': (
        lambda c: check_data_folders(Config(dict(a=dict(dataset=dict(type='ImageNet', data_root='/no')))), 'a'),
        (
            "a: the folder '/no' of the dataset ImageNet does not exist (looked in '/no'). Put or link the "
            'data there, or change it with --cfg-options a.dataset.data_root=PATH.'
        ),
    ),
    'GPUs of zero': (
        lambda c: c.script('dist_train.sh', 'a.py', '0'),
        ("/tools/dist_train.sh: GPUS, the number of processes on this machine, is a positive integer, received '0'"),
    ),
    'GPUs by words': (
        lambda c: c.script('dist_train.sh', 'a.py', 'two'),
        ("/tools/dist_train.sh: GPUS, the number of processes on this machine, is a positive integer, received 'two'"),
    ),
    'negative GPUs': (
        lambda c: c.script('dist_test.sh', 'a.py', 'a.pth', '-1'),
        ("/tools/dist_test.sh: GPUS, the number of processes on this machine, is a positive integer, received '-1'"),
    ),
    'too few arguments': (
        lambda c: c.script('dist_train.sh', 'a.py'),
        ('usage: /tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]'),
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_message(name, tmp_path, cnn, swin, save_weights, root):
    if 'Slurm' in name and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    bad, message = CASES[name]
    with pytest.raises((ValueError, SystemExit)) as error:
        bad(Case(tmp_path, cnn, swin, save_weights, root))
    expected = re.escape(message).replace(re.escape('{tmp}'), re.escape(str(tmp_path))).replace('<any>', '.*')
    assert re.fullmatch(expected, str(error.value)), str(error.value)
