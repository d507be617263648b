# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A file from a URL is downloaded once a machine, and every process waits for it."""

import time
from pathlib import Path

import torch
from torch import distributed as dist

from rsd_mm.models.reference import ModelReference, build_model
from rsd_mm.utils import read_checkpoint


def load(rank, world, folder):
    folder = Path(folder)
    torch.hub.get_dir = lambda: str(folder)

    def download(url, path, progress):
        (folder / f'downloaded_by_{rank}').touch()
        time.sleep(1)
        torch.save(dict(weight=torch.ones(2)), path)

    torch.hub.download_url_to_file = download
    assert torch.equal(read_checkpoint('https://example.org/w.pth')['weight'], torch.ones(2))

    # timm downloads while it builds a model.
    times = []

    class Downloads(torch.nn.Module):
        def __init__(self, pretrained):
            super().__init__()
            times.append(time.time())
            time.sleep(0.5)
            times.append(time.time())

    build_model(ModelReference(dict(type=Downloads, pretrained=True), None, 'timm'), 'teacher')
    spans = [torch.zeros(2, dtype=torch.float64) for _ in range(world)]
    dist.all_gather(spans, torch.tensor(times, dtype=torch.float64))
    assert spans[1][0] >= spans[0][1]


def test_one_process_downloads(run_ranks, tmp_path):
    run_ranks(load, 2, str(tmp_path))
    assert [path.name for path in tmp_path.glob('downloaded_by_*')] == ['downloaded_by_0']
