"""Numbers read out of a claim's own condition, so that nothing can be changed beside it."""

from __future__ import annotations

import re

from fedquad.config import InputError


def bounds(condition: str) -> tuple[float, float]:
    """``between 3.97 and 7.05`` as two numbers.

    Raises
    ------
    InputError
        When the condition has not exactly one such range.
    """
    found = re.findall(r"between ([0-9.]+) and ([0-9.]+)", condition)
    if len(found) != 1:
        raise InputError("condition", condition, "one range as in `between 1.1 and 1.6`")
    low, high = found[0]
    return float(low), float(high)
