"""The recipe of the embedded encoders: masked-language modelling on micro-world text.

Every step's rows and masks come from (seed, step) alone, so that a run that is
stopped goes on where it was, and the recipe gives the same weights again on
the same kind of CPU with one thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from fedquad.config import InputError
from fedquad.training.masked_text import STEPS_PER_POOL, masked_batch
from fedquad.training.small_encoders import PretrainConfig, make_model, make_tokenizer

__all__ = ["PretrainConfig", "masked_loss", "pretrain"]


def _rate(config: PretrainConfig, step: int) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))


def masked_loss(model, config: PretrainConfig, tokenizer, batches: int = 16) -> float:
    """Mean loss on text no training step sees (steps counted on beyond the run's end)."""
    model.eval()
    first = (config.num_steps // STEPS_PER_POOL + 1000) * STEPS_PER_POOL
    with torch.no_grad():
        losses = [
            model(**masked_batch(config, tokenizer, first + i)).loss.item() for i in range(batches)
        ]
    model.train()
    return float(np.mean(losses))


def _write(path: Path, write) -> None:
    """Write through a temporary file, so that a kill leaves the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def _save_checkpoint(folder: Path, config: PretrainConfig, model, optimizer, step: int) -> None:
    tensors = {f"model.{name}": t.detach().clone() for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.clone() for key, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "checkpoint.safetensors",
        lambda path: save_file(
            tensors, path, metadata={"step": str(step), "settings": json.dumps(asdict(config))}
        ),
    )


def _load_checkpoint(folder: Path, config: PretrainConfig, model, optimizer) -> int:
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if json.loads(metadata["settings"]) != asdict(config):
        accepted = f"a folder whose checkpoint has the settings {asdict(config)}"
        raise InputError("output", str(folder), accepted)
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"])


def pretrain(config: PretrainConfig, folder: Path, *, checkpoint_every: int = 200) -> dict:
    """Pretrain an encoder and write it to ``folder``; a stopped run goes on.

    Parameters
    ----------
    config : PretrainConfig
    folder : Path
        Receives ``config.json``, ``model.safetensors``, the tokenizer and
        ``card.json``; ``checkpoint.safetensors`` and ``progress.jsonl`` while
        the run lasts.

    Returns
    -------
    dict
        The card: settings, steps, held-out loss, SHA-256 of the weights.
    """
    torch.set_num_threads(1)  # sums depend on the number of threads
    tokenizer = make_tokenizer(config.architecture)
    model = make_model(config, len(tokenizer)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    first = _load_checkpoint(folder, config, model, optimizer)
    started = time.perf_counter()
    losses: list[float] = []
    for step in tqdm(range(first, config.num_steps), initial=first, total=config.num_steps):
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout of this step
        optimizer.param_groups[0]["lr"] = _rate(config, step)
        loss = model(**masked_batch(config, tokenizer, step)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % checkpoint_every == 0:
            _save_checkpoint(folder, config, model, optimizer, step + 1)
            with (folder / "progress.jsonl").open("a") as file:
                row = {"step": step + 1, "loss": float(np.mean(losses[-checkpoint_every:]))}
                file.write(json.dumps(row) + "\n")
    held_out = masked_loss(model, config, tokenizer)
    tokenizer.save_pretrained(folder)
    model.base_model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    card = {
        "made_by": "fedquad.training.pretrain",
        "settings": asdict(config),
        "parameters": sum(p.numel() for p in model.base_model.parameters()),
        "vocabulary": len(tokenizer),
        "held_out_loss": held_out,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "last_part_wall_time_s": round(time.perf_counter() - started, 1),
    }
    _write(folder / "card.json", lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return card
