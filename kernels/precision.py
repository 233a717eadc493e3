"""How products of fp32 tiles are rounded."""

from __future__ import annotations

import torch


def product_precision(x: torch.Tensor) -> str:
    """What `tl.dot` is told: to round factors of fp32 to TF32 where PyTorch's own products do."""
    # `allow_tf32` raises where PyTorch's newer switch was used; this reads what either has set.
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if x.dtype == torch.float32 and tf32 else "ieee"
