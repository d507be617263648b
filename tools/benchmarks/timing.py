# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the benchmarks share: time and memory of functions side by side, the machine, and how results are written."""

import argparse
import copy
import functools
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import mmengine
import mmpretrain
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from common.report import markdown_table
from rsd_mm.models.distillers import num_classes


def add_benchmark_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the arguments that all benchmarks have."""
    parser.add_argument('--quick', action='store_true', help='the smallest sizes, in a minute on a CPU')
    parser.add_argument('--rounds', type=int, default=7, help='measurements of each, of which the median counts')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, help="torch's threads on the CPU (default: torch's)")
    parser.add_argument('-o', '--out', default=out, help=f'the results as JSON (default: {out})')


def parse_benchmark_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse them, and set the threads."""
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f'--rounds is at least 1, received {args.rounds}.')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: no GPU is visible. There is: cpu.')
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def measure(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 7, device: str = 'cpu', least: float = 0.02
) -> Dict[str, float]:
    """Time functions side by side.

    Each is called a few times to warm up. Then every round times every function once, so that what the machine does
    beside it meets all of them, for as many calls as take ``least`` seconds. An accelerator is waited for.

    Args:
        functions (Dict[str, Callable]): The functions by name.
        rounds (int): Measurements of each. Defaults to 7.
        device (str): Where they compute. Defaults to ``cpu``.
        least (float): Seconds of a measurement, at least one call. Defaults to 0.02.

    Returns:
        Dict[str, float]: The median seconds of a call.
    """

    def seconds(function: Callable[[], Any], calls: int) -> float:
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        _synchronize(device)
        return (time.perf_counter() - start) / calls

    calls = {}
    for name, function in functions.items():
        seconds(function, 2)
        calls[name] = max(1, round(least / seconds(function, 1)))
    found: Dict[str, List[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            gc.collect()
            found[name].append(seconds(function, calls[name]))
    return {name: statistics.median(values) for name, values in found.items()}


def peak_memory(function: Callable[[], Any], device: str = 'cpu') -> int:
    """The most bytes that a call has allocated at a time, beyond what was there before it.

    On a GPU from torch's allocator, on a CPU from every allocation that torch's profiler sees.
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


#: How :func:`report` shows what :func:`measure_steps` tells.
STEP_COLUMNS = dict(ms=('ms', '.1f'), images_per_second=('images/s', '.1f'))


def measure_steps(
    functions: Dict[str, Callable[[], Any]], batch: int, rounds: int, device: str
) -> Dict[str, Dict[str, Any]]:
    """Of functions that each process a batch: ``batch``, ``ms``, ``images_per_second``, and ``peak_mb`` of a call."""
    return {
        name: dict(
            batch=batch,
            ms=1e3 * seconds,
            images_per_second=batch / seconds,
            peak_mb=peak_memory(functions[name], device) / 2**20,
        )
        for name, seconds in measure(functions, rounds, device).items()
    }


def random_batch(model: Any, size: int, side: int, device: str = 'cpu') -> Dict[str, Any]:
    """Random images and labels for a classifier, as a data loader gives them."""
    classes = num_classes(model) or 10
    samples = [DataSample().set_gt_label(i % classes) for i in range(size)]
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=device)
    return dict(inputs=images, data_samples=samples)


def training_step(model: Any, optim_wrapper: dict, data: Dict[str, Any], device: str = 'cpu') -> Callable[[], Any]:
    """A step as mmengine's loops make it, on the same batch at every call.

    Args:
        model (BaseModel): A plain model or a distiller; moved to the device.
        optim_wrapper (dict): As in a config.
        data (Dict[str, Any]): A batch of a data loader.
        device (str): Where to train. Defaults to ``cpu``.
    """
    model.to(device).train()
    for module in model.modules():
        if getattr(module, 'check_finite', False) is True:
            module.check_finite = False  # as HealthHook does
    return functools.partial(model.train_step, data, build_optim_wrapper(model, copy.deepcopy(optim_wrapper)))


#: Of :func:`profile_steps`, in the order of a step.
STEP_PARTS = (
    'input',
    'student forward',
    'teacher forward',
    'terms forward',
    'terms backward',
    'student backward',
    'optimizer',
    'everything else',
)


def profile_steps(
    steps: Dict[str, Callable[[], Any]], teacher: Callable[[], Any], rounds: int, device: str
) -> Dict[str, Dict[str, float]]:
    """Where the time of training steps goes.

    A step is cut where its parts begin and end, by hooks: the parts are times on the clock of a CPU, and on a GPU times
    between events in its stream, without waiting in between. The backward of the terms, with their projectors, is all
    that comes before the gradients of what they read of the student: autograd goes back in the order of the forward,
    in which they are last.

    Args:
        steps (Dict[str, Callable]): By name, what :func:`training_step` returned.
        teacher (Callable): The teacher's forward alone, which counts as that of a step without a teacher.
        rounds (int): Measurements of each, in turn, after three steps to warm up.
        device (str): Where they compute.

    Returns:
        Dict[str, Dict[str, float]]: For each the median seconds by :data:`STEP_PARTS`, and of the ``whole step``.
    """
    found: Dict[str, List[Dict[str, float]]] = {name: [] for name in steps}
    watches = {name: _Stopwatch(device) for name in steps}
    for name, step in steps.items():
        model, optim_wrapper = step.func.__self__, step.args[1]  # type: ignore[attr-defined]
        watches[name].cut(model, optim_wrapper)
        for _ in range(3):
            step()
    alone = _Stopwatch(device)
    for _ in range(rounds):
        gc.collect()
        seconds = alone.parts_of(teacher)['whole step']
        for name, step in steps.items():
            gc.collect()
            parts = watches[name].parts_of(step)
            if not parts['teacher forward']:
                parts['teacher forward'] = seconds
                parts['whole step'] += seconds
            found[name].append(parts)
    return {
        name: {part: statistics.median(parts[part] for parts in measured) for part in (*STEP_PARTS, 'whole step')}
        for name, measured in found.items()
    }


class _Stopwatch:
    """Gives the time between the marks of a step to its parts."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_gpu = torch.device(device).type == 'cuda'
        self.marks: List[Tuple[str, Any]] = []

    def mark(self, ended: str) -> None:
        """Since the last mark it was this part."""
        if self.on_gpu:
            now: Any = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((ended, now))

    def cut(self, model: Any, optim_wrapper: Any) -> None:
        """Mark where the parts of a model's step begin and end."""
        student = getattr(model, 'student', model)
        self._time(model.data_preprocessor, 'input')
        self._time(student, 'student forward')
        if student is not model:
            self._time(model.teacher, 'teacher forward')
            for term in model.terms.values():
                term.register_forward_pre_hook(self._watch_gradient)
                self._time(term, 'terms forward')
        for name, part in dict(backward='student backward', step='optimizer', zero_grad='optimizer').items():
            setattr(optim_wrapper, name, self._timed(getattr(optim_wrapper, name), part))

    def parts_of(self, step: Callable[[], Any]) -> Dict[str, float]:
        """The seconds of a call by part."""
        self.marks = []
        self.mark('')
        step()
        self.mark('everything else')
        _synchronize(self.device)
        parts = dict.fromkeys(STEP_PARTS, 0.0)
        for (_, start), (part, end) in zip(self.marks, self.marks[1:]):
            parts[part] += self._seconds(start, end)
        return {**parts, 'whole step': self._seconds(self.marks[0][1], self.marks[-1][1])}

    def _seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1e3 if self.on_gpu else end - start

    def _time(self, module: torch.nn.Module, part: str) -> None:
        module.register_forward_pre_hook(lambda *_: self.mark('everything else'))
        module.register_forward_hook(lambda *_: self.mark(part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.mark('everything else')
            result = function(*args, **kwargs)
            self.mark(part)
            return result

        return timed

    def _watch_gradient(self, term: torch.nn.Module, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
        read = args[0].view_as(args[0])  # Its gradient is the term's alone.
        read.register_hook(lambda gradient: self.mark('terms backward'))
        return (read, *args[1:])


def machine(device: str = 'cpu') -> Dict[str, Any]:
    """What a measurement depends on: the device, threads and versions."""
    name = platform.processor() or platform.machine()
    if os.path.isfile('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            name = next((line.split(':')[1].strip() for line in file if line.startswith('model name')), name)
    gpu = torch.cuda.get_device_name(device) if device.startswith('cuda') else None
    return dict(
        device=gpu or name,
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        python=platform.python_version(),
    )


def report(out: str, device: str, columns: Dict[str, Tuple[str, str]], rows: Sequence[Dict[str, Any]]) -> None:
    """Print rows as a Markdown table, and write them as JSON together with the machine.

    Args:
        out (str): The JSON file.
        device (str): Where it was measured.
        columns (Dict[str, Tuple[str, str]]): Of the keys of a row that are shown, the heading and the format.
        rows (Sequence[Dict[str, Any]]): The results; a value that is None or left out is an empty cell.
    """
    about = machine(device)
    print(', '.join(f'{key} {value}' for key, value in about.items()), end='\n\n')
    cells = [
        ['' if row.get(key) is None else format(row[key], form) for key, (_, form) in columns.items()] for row in rows
    ]
    print(markdown_table([heading for heading, _ in columns.values()], cells))
    if os.path.dirname(out):
        os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, 'w', encoding='utf-8') as file:
        json.dump(dict(machine=about, rows=list(rows)), file, indent=2)
    print(f'\nWritten: {out}')


def _synchronize(device: str) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
