# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import os
import re
import shutil

import pytest
import torch

from rsd_mm.engine.resuming import newest_checkpoint
from rsd_mm.utils import CheckpointError, read_checkpoint


class TestNewest:
    @pytest.fixture
    def work(self, tmp_path):
        for epoch in (9, 10):
            content = dict(meta=dict(iter=epoch), optimizer={}, message_hub={}, state_dict=dict(w=torch.randn(2000)))
            torch.save(content, tmp_path / f'epoch_{epoch}.pth')
        torch.save(dict(meta=dict(iter=11), state_dict={}), tmp_path / 'best_top1_epoch_11.pth')
        torch.save(dict(state_dict={}), tmp_path / 'published.pth')
        return tmp_path

    def test_by_what_is_in_the_files(self, work):
        # A copied folder has other times, and mmengine's pointer may be empty or late.
        os.utime(work / 'epoch_9.pth', (2e9, 2e9))
        for pointer in ('', str(work / 'epoch_9.pth')):
            (work / 'last_checkpoint').write_text(pointer)
            assert newest_checkpoint(str(work)) == str(work / 'epoch_10.pth')

    def test_in_another_folder(self, work, tmp_path_factory, capfd):
        other = tmp_path_factory.mktemp('other')
        (other / 'last_checkpoint').write_text(str(work / 'epoch_10.pth'))
        assert newest_checkpoint(str(other)) == str(work / 'epoch_10.pth')
        assert f"Its last_checkpoint points to '{work}', which is searched instead" in ''.join(capfd.readouterr())

    def test_a_copied_folder_is_resumed_from_itself(self, work, tmp_path_factory, capfd):
        copy = tmp_path_factory.mktemp('copy')
        shutil.copytree(work, copy, dirs_exist_ok=True)
        (copy / 'last_checkpoint').write_text(str(work / 'epoch_10.pth'))
        (copy / 'epoch_10.pth').write_bytes(b'')
        assert newest_checkpoint(str(copy)) == str(copy / 'epoch_9.pth')
        assert 'points to' not in ''.join(capfd.readouterr())

    def test_none(self, tmp_path):
        assert newest_checkpoint(str(tmp_path)) is None

    def test_damage_that_torch_does_not_see(self, work, capfd):
        path = work / 'epoch_10.pth'
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
        assert read_checkpoint(path)
        assert newest_checkpoint(str(work)) == str(work / 'epoch_9.pth')
        assert re.search(r"epoch_10.pth' is damaged: wrong checksum of \S+", ''.join(capfd.readouterr()))

    def test_all_are_broken(self, work):
        for epoch in (9, 10):
            (work / f'epoch_{epoch}.pth').write_bytes(b'')
        with pytest.raises(CheckpointError) as error:
            newest_checkpoint(str(work))
        lines = str(error.value).splitlines()
        assert lines[0] == f"No complete checkpoint to resume from in '{work}':"
        assert lines[1].endswith('is empty (0 bytes). Get or save it again.')
        assert lines[-1] == 'Leave out --resume to start over.'
