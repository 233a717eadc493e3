"""What may go wrong with one setting without ending the whole run."""

from __future__ import annotations

import gc
from typing import Any

import torch

from fedquad.config import InputError

_UNSUPPORTED = (InputError, NotImplementedError)


def outcome(error: BaseException) -> dict[str, Any]:
    """``status`` and ``message`` of a row whose setting could not be measured.

    Raises
    ------
    BaseException
        The error itself, after which a GPU answers nothing in this process.
    """
    message = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if isinstance(error, torch.cuda.OutOfMemoryError) or "not enough memory" in message:
        return {"status": "out of memory", "message": message}
    if isinstance(error, _UNSUPPORTED):
        return {"status": "unsupported", "message": message}
    if "CUDA error" in message:
        raise error
    return {"status": "failed", "message": f"{type(error).__name__}: {message}"}


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
