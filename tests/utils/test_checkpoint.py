# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import io
import os
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from rsd_mm.utils import CheckpointError, load_strictly, read_checkpoint, state_dict_of
from rsd_mm.utils.safe_loading import _history_statistic


@pytest.fixture
def save(tmp_path):
    def save_it(content, name='checkpoint.pth'):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return str(path)

    return save_it


class Bomb:
    """Would create a file if its pickle were run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TestReading:
    def test_reads_tensors_and_plain_values(self, save):
        content = dict(state_dict=dict(weight=torch.arange(3.0)), meta=dict(epoch=3, name='a'))
        back = read_checkpoint(save(content))
        assert torch.equal(back['state_dict']['weight'], content['state_dict']['weight'])
        assert back['meta'] == content['meta']

    def test_reads_what_mmengine_logs(self, save):
        buffer = HistoryBuffer([1.0, 2.0, 6.0], [1, 1, 1])
        back = read_checkpoint(save(dict(message_hub=dict(log_scalars=dict(loss=buffer)), best=np.float64(0.5))))
        restored = back['message_hub']['log_scalars']['loss']
        assert restored.mean() == 3
        assert restored.statistics('max') == 6
        assert back['best'] == 0.5

    def test_missing(self):
        with pytest.raises(
            CheckpointError, match=r"Checkpoint 'nowhere.pth' is not a file \(looked in '/.*nowhere.pth'"
        ):
            read_checkpoint('nowhere.pth')

    def test_empty(self, save):
        with pytest.raises(CheckpointError, match=r'is empty \(0 bytes\). Get or save it again.'):
            read_checkpoint(save(b''))

    @pytest.mark.parametrize('page', [b'<!DOCTYPE html><html>Log in</html>', b'\n  <html><body>404</body></html>'])
    def test_web_page(self, save, page):
        with pytest.raises(
            CheckpointError, match='is a web page, not a checkpoint: it begins with .<.*get the file itself'
        ):
            read_checkpoint(save(page))

    @pytest.mark.parametrize('keep', [0.2, 0.7, 0.99])
    def test_truncated(self, save, keep):
        buffer = io.BytesIO()
        torch.save(dict(weight=torch.randn(1000)), buffer)
        data = buffer.getvalue()
        with pytest.raises(CheckpointError, match='is truncated or not a PyTorch checkpoint'):
            read_checkpoint(save(data[: int(len(data) * keep)]))

    def test_garbage(self, save):
        with pytest.raises(CheckpointError, match='is truncated or not a PyTorch checkpoint'):
            read_checkpoint(save(b'these are not the weights you are looking for'))

    @pytest.mark.parametrize('legacy', [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path, save, legacy):
        target = tmp_path / 'exploded'
        buffer = io.BytesIO()
        torch.save(dict(state_dict=Bomb(target)), buffer, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=r'holds Python objects \(.*mkdir\) that only running code'):
            read_checkpoint(save(buffer.getvalue()))
        assert not target.exists()

    def test_getattr_is_no_way_around(self, save):
        class Reach:
            def __reduce__(self):
                return getattr, (HistoryBuffer, '__init__')

        with pytest.raises(CheckpointError, match='holds Python objects'):
            read_checkpoint(save(dict(a=Reach())))
        for owner, name in ((HistoryBuffer, '__init__'), (os, 'system'), (HistoryBuffer.mean, '__globals__')):
            with pytest.raises(pickle.UnpicklingError):
                _history_statistic(owner, name)
        assert _history_statistic(HistoryBuffer, 'mean') is HistoryBuffer.mean

    def test_not_a_dict(self, save):
        with pytest.raises(CheckpointError, match='holds a Tensor, not the dict of a checkpoint'):
            read_checkpoint(save(torch.ones(3)))

    def test_url_is_downloaded_once(self, tmp_path, save, monkeypatch):
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
        source = save(dict(weight=torch.ones(2)))
        calls = []

        def download(url, path, progress):
            calls.append(url)
            os.replace(source, path)

        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        for _ in range(2):
            assert torch.equal(read_checkpoint('https://example.org/a/w.pth')['weight'], torch.ones(2))
        assert calls == ['https://example.org/a/w.pth']

    def test_without_internet_it_says_where_to_put_the_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

        def fail(url, path, progress):
            raise OSError('Name or service not known')

        monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
        message = (
            "Checkpoint 'https://example.org/w.pth' could not be downloaded (Name or service not known). Without "
            f"internet, put the file at '{tmp_path}/hub/checkpoints/w.pth', or set `checkpoint`"
        )
        with pytest.raises(CheckpointError, match=re.escape(message)):
            read_checkpoint('https://example.org/w.pth')


class TestStateDict:
    def test_without_weights(self):
        with pytest.raises(CheckpointError, match="'a.pth' holds no state dict: found 'epoch', 'lr'. Expected tensors"):
            state_dict_of(dict(epoch=1, lr=0.1), 'a.pth')
        with pytest.raises(CheckpointError, match='found nothing'):
            state_dict_of(dict(state_dict={}), 'a.pth')

    def test_strict(self, save):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        state = model.state_dict()
        load_strictly(model, save(state))
        wrong = {**state, '0.weight': torch.ones(4, 5), 'extra': torch.ones(1)}
        del wrong['1.bias']
        with pytest.raises(CheckpointError) as error:
            load_strictly(model, save(wrong), 'teacher')
        lines = str(error.value).splitlines()
        assert lines[0].endswith('does not fit the teacher (Sequential):')
        assert lines[1:4] == [
            '  1 of another shape: 0.weight ((4, 5) in the file, (4, 3) in the teacher)',
            '  1 missing: 1.bias',
            '  1 unexpected: extra',
        ]
        assert lines[4].startswith('Give the checkpoint of this very architecture')

    def test_another_architecture_is_listed_shortly(self, save):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(30)))
        with pytest.raises(CheckpointError, match='60 missing: 0.weight, 0.bias, .* and 50 more') as error:
            load_strictly(model, save(dict(weight=torch.ones(1))))
        assert len(str(error.value)) < 600
