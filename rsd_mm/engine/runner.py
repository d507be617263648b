# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Access to a Runner's distiller and starting checkpoint."""

from typing import Any, Optional

from mmengine.model import is_model_wrapper

from rsd_mm.models.distillers import Distiller


def unwrap(model: Any) -> Any:
    """Return the model inside a wrapper such as DDP, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def distiller_of(runner: Any) -> Optional[Distiller]:
    """Return the distiller that a runner trains, or None if it trains another model."""
    model = unwrap(runner.model)
    return model if isinstance(model, Distiller) else None


# mmengine keeps a Runner's `load_from` and `resume` in private attributes only. `cfg` has them too, but a Runner can be
# built without one, and `load_or_resume()` ignores changes to it.


def is_resuming(runner: Any) -> bool:
    """Return whether the run continues an earlier one."""
    return runner._resume


def starting_checkpoint(runner: Any) -> Optional[str]:
    """Return the checkpoint that the run loads or resumes, if any."""
    return runner._load_from


def resume_from(runner: Any, path: Optional[str]) -> None:
    """Set the checkpoint that ``load_or_resume()`` reads."""
    runner._load_from = path
