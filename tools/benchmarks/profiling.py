# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Where the time of a training step goes."""

import functools
import gc
import statistics
import time
from typing import Any, Callable, Dict, List, Tuple

import torch

#: In the order of a step.
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
    steps: Dict[str, functools.partial], teacher: Callable[[], Any], rounds: int, device: str
) -> Dict[str, Dict[str, float]]:
    """Measure the parts of training steps.

    Hooks mark where the parts begin and end, by the clock on a CPU and by events on a GPU, which is not synchronized
    in between. The backward of the terms, projectors included, ends with the gradients of the features they read:
    autograd reverses the order of the forward, where the terms come last.

    Args:
        steps (Dict[str, partial]): Results of :func:`~benchmarks.timing.training_step` by name.
        teacher (Callable): The teacher's forward alone, added to steps without a teacher.
        rounds (int): Measurements of each, in turn, after three steps of warm-up.
        device (str): Where they compute.

    Returns:
        Dict[str, Dict[str, float]]: Median seconds of :data:`STEP_PARTS` and of the ``whole step``, by name.
    """
    measured: Dict[str, List[Dict[str, float]]] = {name: [] for name in steps}
    watches = {name: _Stopwatch(device) for name in steps}
    for name, step in steps.items():
        watches[name].hook(step.func.__self__, step.args[1])  # type: ignore[attr-defined]
        for _ in range(3):
            step()
    for _ in range(rounds):
        gc.collect()
        alone = _Stopwatch(device).measure(teacher)['whole step']
        for name, step in steps.items():
            gc.collect()
            parts = watches[name].measure(step)
            if not parts['teacher forward']:
                parts['teacher forward'] = alone
                parts['whole step'] += alone
            measured[name].append(parts)
    return {
        name: {part: statistics.median(parts[part] for parts in rounds_) for part in (*STEP_PARTS, 'whole step')}
        for name, rounds_ in measured.items()
    }


class _Stopwatch:
    """Assigns the time between marks to the parts of a step."""

    def __init__(self, device: str) -> None:
        self.on_gpu = torch.device(device).type == 'cuda'
        self.marks: List[Tuple[str, Any]] = []

    def mark(self, ended: str) -> None:
        """Assign the time since the last mark to this part."""
        now: Any = time.perf_counter()
        if self.on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.marks.append((ended, now))

    def hook(self, model: Any, optim_wrapper: Any) -> None:
        """Mark the parts of a model's step."""
        student = getattr(model, 'student', model)
        self._hook_forward(model.data_preprocessor, 'input')
        self._hook_forward(student, 'student forward')
        if student is not model:
            self._hook_forward(model.teacher, 'teacher forward')
            for term in model.terms.values():
                term.register_forward_pre_hook(self._hook_gradient)
                self._hook_forward(term, 'terms forward')
        for name, part in dict(backward='student backward', step='optimizer', zero_grad='optimizer').items():
            setattr(optim_wrapper, name, self._timed(getattr(optim_wrapper, name), part))

    def measure(self, step: Callable[[], Any]) -> Dict[str, float]:
        """Call a step and return the seconds of its parts."""
        self.marks = []
        self.mark('')
        step()
        self.mark('everything else')
        if self.on_gpu:
            torch.cuda.synchronize()
        parts = dict.fromkeys(STEP_PARTS, 0.0)
        for (_, start), (part, end) in zip(self.marks, self.marks[1:]):
            parts[part] += self._seconds(start, end)
        return {**parts, 'whole step': self._seconds(self.marks[0][1], self.marks[-1][1])}

    def _seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1e3 if self.on_gpu else end - start

    def _hook_forward(self, module: torch.nn.Module, part: str) -> None:
        module.register_forward_pre_hook(lambda *_: self.mark('everything else'))
        module.register_forward_hook(lambda *_: self.mark(part))

    def _hook_gradient(self, term: torch.nn.Module, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
        read = args[0].view_as(args[0])  # Only the term uses this view, so its gradient is the term's.
        read.register_hook(lambda gradient: self.mark('terms backward'))
        return (read, *args[1:])

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.mark('everything else')
            result = function(*args, **kwargs)
            self.mark(part)
            return result

        return timed
