# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Images as they are found in the wild. What is refused is in tests/test_bad_inputs.py."""

import re

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image
from torch.utils.data import DataLoader

from rsd_mm import LoadCheckedImage


@pytest.fixture
def picture():
    """A smooth image in RGB."""
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((80, 60), Image.BICUBIC))


def load(path, **options):
    return TRANSFORMS.build(dict(type='LoadCheckedImage', **options))(dict(img_path=str(path)))


def test_grey_cmyk_alpha_and_16_bit_images_come_out_as_8_bit_color(picture, tmp_path):
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    Image.fromarray(picture).save(tmp_path / 'rgb.png')
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    Image.fromarray(grey).save(tmp_path / 'grey.jpg', quality=100)
    Image.fromarray(picture).convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    Image.fromarray(np.dstack([picture, grey])).save(tmp_path / 'alpha.png')
    cv2.imwrite(str(tmp_path / 'deep.png'), picture[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / 'deep_grey.png'), grey.astype(np.uint16) * 257)
    expected = dict.fromkeys(('rgb.png', 'cmyk.jpg', 'alpha.png', 'deep.png'), picture)
    expected.update(dict.fromkeys(('grey.png', 'grey.jpg', 'deep_grey.png'), np.dstack([grey] * 3)))
    for name, content in expected.items():
        results = load(tmp_path / name)
        assert results['img'].dtype == np.uint8, name
        assert results['img_shape'] == results['ori_shape'] == (60, 80), name
        difference = np.abs(results['img'][..., ::-1].astype(int) - content).mean()
        assert difference < (2.5 if name.endswith('.jpg') else 0.01), (name, difference)
    assert load(tmp_path / 'rgb.png', to_float32=True)['img'].dtype == np.float32


def test_a_jpeg_with_a_preview_or_a_tail_is_whole(picture, tmp_path):
    path = tmp_path / 'a.jpg'
    Image.fromarray(picture).save(path)
    data = path.read_bytes()
    path.write_bytes(data + bytes(100))
    assert load(path)['img'].shape == (60, 80, 3)
    # A preview brings an end-of-image marker of its own along, near the beginning.
    preview = b'\xff\xe1\x00\x06\xff\xd8\xff\xd9'
    path.write_bytes(data[:2] + preview + data[2 : int(len(data) * 0.8)])
    with pytest.raises(ValueError, match='the JPEG is truncated'):
        load(path)


@pytest.mark.parametrize('workers', [0, 2])
def test_corrupt_images_are_left_out_and_counted(picture, tmp_path, capfd, workers):
    for kind in 'ab':
        (tmp_path / kind).mkdir()
        for i in range(4):
            Image.fromarray(picture).save(tmp_path / kind / f'{i}.jpg')
    for broken in ('a/1.jpg', 'b/2.jpg'):
        path = tmp_path / broken
        path.write_bytes(path.read_bytes()[:300])
    pipeline = [dict(type='LoadCheckedImage', corrupt='skip'), dict(type='PackInputs')]
    dataset = DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), pipeline=pipeline))
    loaded = list(DataLoader(dataset, num_workers=workers, collate_fn=lambda items: items[0]))
    assert len(loaded) == 8
    loader = dataset.pipeline.transforms[0]
    assert isinstance(loader, LoadCheckedImage)
    log = ''.join(capfd.readouterr())
    lines = re.findall(r"Skipping image '(\S+)' \((\d+) so far\): the JPEG is truncated", log)
    # One is left out again if it is drawn in place of another.
    assert int(loader.skipped) == len(lines) >= 2
    assert {path[-7:] for path, _ in lines} == {'a/1.jpg', 'b/2.jpg'}
    assert sorted(int(count) for _, count in lines) == list(range(1, len(lines) + 1))
