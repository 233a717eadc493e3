"""What every test needs: no network, no display, one thread a process."""

from __future__ import annotations

import os

# Before anything imports them; processes that tests start inherit the same.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # CPU results depend on the number of threads

import torch

torch.set_num_threads(1)
