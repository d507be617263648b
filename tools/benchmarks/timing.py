# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Time and memory of functions and of training steps."""

import copy
import functools
import gc
import json
import os
import tempfile
from typing import Any, Callable, Dict, List, Mapping

import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from torch.utils.benchmark import Measurement, Timer

from rsd_mm.models.taps import num_classes

#: Heading and format of values of :func:`measure_steps`.
STEP_COLUMNS = dict(ms=('ms', '.1f'), images_per_second=('images/s', '.1f'))


def measure(functions: Mapping[str, Callable[[], Any]], rounds: int = 7, least: float = 0.02) -> Dict[str, float]:
    """Time functions side by side.

    Every round times every function, so that other load on the machine affects all of them. The current accelerator
    is synchronized.

    Args:
        functions (Mapping[str, Callable]): The functions by name.
        rounds (int): Measurements of each, after a warm-up call. Defaults to 7.
        least (float): Minimum seconds of a measurement; 0 makes exactly one call.
            Defaults to 0.02.

    Returns:
        Dict[str, float]: Median seconds per call.
    """
    threads = torch.get_num_threads()  # Timer's default is 1.
    timers = {name: Timer('call()', globals=dict(call=call), num_threads=threads) for name, call in functions.items()}
    measured: Dict[str, List[Measurement]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, timer in timers.items():
            gc.collect()
            measured[name].append(timer.blocked_autorange(min_run_time=least))
    return {name: Measurement.merge(values)[0].median for name, values in measured.items()}


def peak_memory(function: Callable[[], Any], device: str = 'cpu') -> int:
    """Return the peak of a call's allocations in bytes, beyond what was allocated before.

    Uses torch's allocator on a GPU, and the allocations in torch's profile on a CPU.
    """
    gc.collect()
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'trace.json')
        profile.export_chrome_trace(path)
        with open(path, encoding='utf-8') as file:
            events = [event for event in json.load(file)['traceEvents'] if event.get('name') == '[memory]']
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event['ts']):
        allocated += event['args']['Bytes']
        peak = max(peak, allocated)
    return peak


def measure_steps(
    functions: Mapping[str, Callable[[], Any]], batch: int, rounds: int, device: str
) -> Dict[str, Dict[str, Any]]:
    """Return ``batch``, ``ms``, ``images_per_second`` and ``peak_mb`` of functions that process a batch each."""
    return {
        name: dict(
            batch=batch,
            ms=1e3 * seconds,
            images_per_second=batch / seconds,
            peak_mb=peak_memory(functions[name], device) / 2**20,
        )
        for name, seconds in measure(functions, rounds).items()
    }


def random_batch(model: Any, size: int, side: int, device: str = 'cpu') -> Dict[str, Any]:
    """Return random images, labels and indices for a classifier, as a data loader does."""
    classes = num_classes(model) or 10
    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % classes) for i in range(size)]
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=device)
    return dict(inputs=images, data_samples=samples)


def training_step(model: Any, optim_wrapper: dict, data: Dict[str, Any], device: str = 'cpu') -> functools.partial:
    """Return a training step of a plain model or a distiller, always on the same batch; moves it to the device."""
    model.to(device).train()
    return functools.partial(model.train_step, data, build_optim_wrapper(model, copy.deepcopy(optim_wrapper)))


def teacher_forward(distiller: Any, images: torch.Tensor) -> Callable[[], Any]:
    """Return the teacher's forward in a training step."""
    taps = list(dict.fromkeys(term.teacher_tap for term in distiller.terms.values()))
    return lambda: distiller.teacher(images, taps)
