# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""One forward of a random image through a network, to see what its modules give.

Methods on intermediate features need the place, width and form of a network's stages when the model is built. A probe
finds them without a table of architectures, and leaves the network and the random states as they were.
"""

from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """A module's path, its first input (None if that is no tensor) and its first output."""

    path: str
    input: Optional[Tensor]
    output: Tensor


def probe(model: nn.Module, role: str, paths: Optional[Sequence[str]] = None) -> List[Call]:
    """Run a forward of two random images in eval mode.

    Args:
        model (nn.Module): The network.
        role (str): ``student`` or ``teacher``, for messages.
        paths (Sequence[str], optional): The modules to record. Defaults to None, for all.

    Returns:
        List[Call]: In the order of execution.

    Raises:
        ValueError: If the network does not run on such images.
    """
    parameter = next(model.parameters())
    calls: List[Call] = []

    def record(path: str, args: Any, output: Any) -> None:
        output = _first_tensor(output)
        if output is not None and len(output) == 2:
            calls.append(Call(path, _first_tensor(args), output))

    sizes = _image_sizes(model)
    with _eval_mode(model) as handles:
        for path, module in model.named_modules():
            if path if paths is None else path in paths:
                hook: Any = lambda _, args, output, path=path: record(path, args, output)  # noqa: E731
                handles.append(module.register_forward_hook(hook))
        for size in sizes:
            calls.clear()
            images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(parameter)
            try:
                model(images)
                return calls
            except Exception as error:
                reason = error
    raise ValueError(
        f'{role}: {type(model).__name__} does not run on an image of {sizes[-1][0]} x {sizes[-1][1]} pixels, with '
        f'which its stages are located: {reason}'
    ) from reason


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[List[Any]]:
    """Eval mode without gradient, and a list for hook handles; afterwards everything is restored."""
    handles: List[Any] = []
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield handles
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True


def _image_sizes(model: nn.Module) -> List[Tuple[int, int]]:
    """Return the size that a network with position embeddings was built for; else a small size and the usual one."""
    for module in model.modules():
        for name in ('img_size', 'init_input_size'):
            size = getattr(module, name, None)
            if isinstance(size, int):
                return [(size, size)]
            if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                return [(size[0], size[1])]
    return [(64, 64), (224, 224)]


def _first_tensor(value: Any) -> Optional[Tensor]:
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None
