# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Undo what hooks change for training when it ends."""

import contextlib
from typing import Any

from mmengine.runner import BaseLoop


def cleanup_stack(runner: Any) -> contextlib.ExitStack:
    """Return the stack that is closed when the train loop ends, by an exception as well.

    mmengine calls ``after_train`` only if training succeeds. A hook that patches something calls this in
    ``before_run``, between building and running the loop, and then patches in ``before_train`` (see :func:`patch`).

    Args:
        runner (Runner): The runner.

    Returns:
        ExitStack: Shared by all hooks of the run.
    """
    # `train_loop` would build the loop, with its dataset, where the runner only tests.
    loop = runner._train_loop
    if not isinstance(loop, BaseLoop):
        return contextlib.ExitStack()
    stack = vars(loop).get('_cleanup_stack')
    if stack is None:
        stack = loop._cleanup_stack = contextlib.ExitStack()
        run = loop.run

        def run_and_clean_up() -> Any:
            with stack:
                return run()

        stack.callback(delattr, loop, '_cleanup_stack')
        patch(runner, loop, 'run', run_and_clean_up)
    return stack


def patch(runner: Any, owner: Any, name: str, value: Any) -> None:
    """Set an attribute of an object until training ends."""
    own = vars(owner)
    restore = (setattr, owner, name, own[name]) if name in own else (delattr, owner, name)
    cleanup_stack(runner).callback(*restore)
    setattr(owner, name, value)
