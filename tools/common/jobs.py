# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Trainings side by side, each in a process of its own."""

import json
import os
import os.path as osp
import statistics
import subprocess
import sys
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from tqdm import tqdm

from common.logs import curve_of, read_scalars

TOOLS = osp.join(osp.dirname(osp.abspath(__file__)), '..')


class Run(NamedTuple):
    """One training of ``total`` epochs or iterations. ``config`` is the path that ``text`` is written to."""

    name: str
    seed: int
    folder: str
    config: str
    text: str
    total: int

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'


def read_log(run: Run, metric: str) -> Dict[str, Any]:
    """Return the ``curve`` of a run, ``seconds`` per iteration, ``memory`` in MB, ``step``, and if it is ``done``."""
    records = list(read_scalars(run.folder))
    steps, values = curve_of(records, metric)
    training = [record for record in records if 'loss' in record and metric not in record]
    return dict(
        curve=(steps, values),
        seconds=statistics.median(record['time'] for record in training) if training else None,
        memory=max((record.get('memory', 0) for record in training), default=0),
        step=max((record.get('epoch', record['step']) for record in training), default=0),
        done=run.total in steps,  # The last checkpoint is saved before the last validation.
    )


def resident_memory(run: Run) -> float:
    """Return the peak memory of a run's process in MB, over all its parts if it was resumed; 0 if unknown."""
    path = osp.join(run.folder, 'resident.json')
    if not osp.isfile(path):
        return 0
    with open(path, encoding='utf-8') as file:
        return json.load(file)


class Jobs:
    """Run trainings side by side, spread over the visible GPUs: ``count``, or one per GPU, or one on the CPU."""

    def __init__(self, count: Optional[int], metric: str, amp: bool = False) -> None:
        gpus = torch.cuda.device_count()
        visible = [gpu for gpu in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if gpu]
        self.gpus = (visible or [str(i) for i in range(gpus)])[:gpus]
        self.count = count or max(1, len(self.gpus))
        self.metric = metric
        self.amp = amp
        self._running: Dict[int, Tuple[Run, subprocess.Popen, float]] = {}

    def run(self, runs: List[Run]) -> List[Run]:
        """Run what is not finished yet; return the runs that failed."""
        logs = {run: read_log(run, self.metric) for run in runs}
        pending = [run for run in runs if not logs[run]['done']]
        failed = []
        finished = len(runs) - len(pending)
        if finished:
            print(f'{finished} of {len(runs)} runs are finished already.', flush=True)
        # disable=None: only on a terminal.
        bar = tqdm(total=sum(run.total for run in runs), unit='epoch', disable=None)
        try:
            while pending or self._running:
                for slot in range(self.count):
                    if pending and slot not in self._running:
                        self._start(pending.pop(0), slot)
                time.sleep(0.5)
                for run, code, seconds in self._poll():
                    logs[run] = read_log(run, self.metric)
                    if code == 0 and logs[run]['done']:
                        finished += 1
                        text = f'{logs[run]["curve"][1][-1]:.1f} ({seconds:.0f} s)'
                    else:
                        failed.append(run)
                        text = f'FAILED ({code}), {osp.join(run.folder, "train.log")} ends:\n{_tail(run)}'
                    tqdm.write(f'[{finished}/{len(runs)}] {run}: {text}')
                    sys.stdout.flush()
                if not bar.disable:
                    logs.update({run: read_log(run, self.metric) for run, _, _ in self._running.values()})
                    bar.update(sum(log['step'] for log in logs.values()) - bar.n)
        finally:
            bar.close()
            for _, process, _ in self._running.values():
                process.terminate()
            for _, process, _ in self._running.values():
                process.wait()
        return failed

    def _start(self, run: Run, slot: int) -> None:
        environment = dict(os.environ)
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, [osp.join(TOOLS, '..'), os.environ.get('PYTHONPATH')]))
        if self.gpus:
            environment['CUDA_VISIBLE_DEVICES'] = self.gpus[slot % len(self.gpus)]
        environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // self.count)))
        for folder in (run.folder, osp.dirname(run.config)):
            os.makedirs(folder, exist_ok=True)
        with open(run.config, 'w', encoding='utf-8') as file:
            file.write(run.text)
        command = [sys.executable, osp.join(TOOLS, 'train.py'), run.config, '--work-dir', run.folder, '--resume']
        with open(osp.join(run.folder, 'train.log'), 'a', encoding='utf-8') as log:
            process = subprocess.Popen(
                command + ['--amp'] * self.amp, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self._running[slot] = (run, process, time.perf_counter())

    def _poll(self) -> List[Tuple[Run, int, float]]:
        """Return the runs that have ended since the last call, their exit codes and seconds."""
        ended = []
        for slot, (run, process, start) in list(self._running.items()):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                # KiB on Linux, bytes on macOS.
                resident = usage.ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
                resident = max(resident, resident_memory(run))  # It may have been interrupted before.
                with open(osp.join(run.folder, 'resident.json'), 'w', encoding='utf-8') as file:
                    json.dump(resident, file)
                ended.append((run, process.returncode, time.perf_counter() - start))
                del self._running[slot]
        return ended


def _tail(run: Run, lines: int = 12) -> str:
    with open(osp.join(run.folder, 'train.log'), encoding='utf-8', errors='replace') as file:
        return ''.join(f'    {line}' for line in file.readlines()[-lines:])
