"""The recipe of the embedded encoder: masked-language modelling on micro-world text.

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
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from fedquad.config import InputError, require_int, require_positive
from fedquad.tasks.microworld import MICRO_TASKS, make_task
from fedquad.tasks.microworld.corpus import passage

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MASKED_SHARE = 0.15
# Rows of this many steps are drawn together and sorted by length: less padding, same text.
STEPS_PER_POOL = 8
VOCABULARY_PASSAGES = 60_000


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of one pretraining run; the defaults made the encoder that ships."""

    num_layers: int = 12
    hidden_size: int = 128
    num_heads: int = 4
    max_length: int = 126
    num_steps: int = 8000
    warmup_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 7e-4
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("num_layers", "hidden_size", "num_heads", "num_steps", "batch_size"):
            require_int(field, getattr(self, field), 1)
        require_int("warmup_steps", self.warmup_steps, 0, self.num_steps)
        require_int("max_length", self.max_length, 8)
        require_int("seed", self.seed, 0)
        require_positive("learning_rate", self.learning_rate)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: the words of the micro-world, in RoBERTa's row format."""
    rng = Random("vocabulary")
    texts = [text for _ in range(VOCABULARY_PASSAGES) for text in passage(rng) if text]
    for name in MICRO_TASKS:
        split = make_task(name).train
        texts += [*split.texts_a, *(split.texts_b or ())]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(config: PretrainConfig, vocabulary_size: int) -> RobertaForMaskedLM:
    """A RoBERTa of random weights, drawn from the config's seed."""
    torch.manual_seed(config.seed)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocabulary_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * config.hidden_size,
            max_position_embeddings=config.max_length + 4,  # RoBERTa counts from padding_idx + 1
            type_vocab_size=1,
            # Fresh text at every step cannot be overfitted, and masks cost a third of a CPU step.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
    )


@lru_cache(maxsize=2)
def _pool(config: PretrainConfig, index: int) -> list[list[tuple[str, str | None]]]:
    rng = Random(f"pretrain/{config.seed}/{index}")
    rows = [passage(rng) for _ in range(STEPS_PER_POOL * config.batch_size)]
    rows.sort(key=lambda row: len(" ".join(filter(None, row)).split()))
    batches = [rows[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size)]
    rng.shuffle(batches)
    return batches


def masked_batch(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, step: int
) -> dict[str, torch.Tensor]:
    """Rows of step ``step``: 15 % of the words are to be guessed (BERT's 80/10/10 rule)."""
    rows = _pool(config, step // STEPS_PER_POOL)[step % STEPS_PER_POOL]
    pairs = [row if row[1] is not None else (row[0],) for row in rows]
    encoded = tokenizer._tokenizer.encode_batch([p if len(p) == 2 else p[0] for p in pairs])
    length = min(max(len(row.ids) for row in encoded), config.max_length)
    ids = np.full((len(encoded), length), tokenizer.pad_token_id, dtype=np.int64)
    for row, encoding in zip(ids, encoded, strict=True):
        row[: len(encoding.ids)] = encoding.ids[:length]
    rng = np.random.default_rng((config.seed, step))
    is_word = ids >= len(SPECIAL_TOKENS)
    chosen = is_word & (rng.random(ids.shape) < MASKED_SHARE)
    labels = np.where(chosen, ids, -100)
    fate = rng.random(ids.shape)
    corrupted = np.where(chosen & (fate < 0.8), tokenizer.mask_token_id, ids)
    random_words = rng.integers(len(SPECIAL_TOKENS), len(tokenizer), ids.shape)
    corrupted = np.where(chosen & (fate >= 0.9), random_words, corrupted)
    return {
        "input_ids": torch.from_numpy(corrupted),
        "attention_mask": torch.from_numpy((ids != tokenizer.pad_token_id).astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


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
    tokenizer = make_tokenizer()
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
    model.roberta.save_pretrained(folder)
    weights = folder / "model.safetensors"
    card = {
        "made_by": "fedquad.training.pretrain",
        "settings": asdict(config),
        "parameters": sum(p.numel() for p in model.roberta.parameters()),
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
