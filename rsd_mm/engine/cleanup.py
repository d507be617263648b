# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Undo at the end of training what hooks changed for it."""

import contextlib
from typing import Any


def cleanup_stack(runner: Any) -> contextlib.ExitStack:
    """What is undone when the runner's train loop ends, by an exception as well.

    mmengine calls ``after_train`` only where training succeeds. A hook gets the
    stack in ``before_run``, when the loop is built, and adds to it what it patches::

        cleanup_stack(runner).callback(setattr, owner, name, original)

    Args:
        runner (Runner): The runner.

    Returns:
        ExitStack: One for all hooks of the run, closed in the reverse of the order
        in which they added to it.
    """
    loop = runner.train_loop
    if loop is None:
        return contextlib.ExitStack()  # The runner only tests.
    stack = vars(loop).get('_cleanup_stack')
    if stack is None:
        stack = loop._cleanup_stack = contextlib.ExitStack()
        run = loop.run

        def run_and_clean_up() -> Any:
            with stack:
                return run()

        loop.run = run_and_clean_up
        stack.callback(setattr, loop, 'run', run)
        stack.callback(delattr, loop, '_cleanup_stack')
    return stack
