"""What every test needs: no network, no display, one thread a process."""

from __future__ import annotations

import os

# Before anything imports them; processes that tests start inherit the same.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # CPU results depend on the number of threads

import torch

# Without a GPU, Triton's interpreter runs the kernels; it must be chosen before they are imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

torch.set_num_threads(1)
