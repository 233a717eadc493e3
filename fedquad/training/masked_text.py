"""Micro-world text with words to be guessed; a step's rows and masks come from (seed, step)."""

from __future__ import annotations

from functools import lru_cache
from random import Random

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from fedquad.tasks.microworld.corpus import passage
from fedquad.training.small_encoders import NUM_SPECIAL_TOKENS, PretrainConfig

MASKED_SHARE = 0.15
# Rows of this many steps are drawn together and sorted by length: less padding, same text.
STEPS_PER_POOL = 8


@lru_cache(maxsize=2)
def _pool(seed: int, batch_size: int, index: int) -> list[list[tuple[str, str | None]]]:
    rng = Random(f"pretrain/{seed}/{index}")
    rows = [passage(rng) for _ in range(STEPS_PER_POOL * batch_size)]
    rows.sort(key=lambda row: len(" ".join(filter(None, row)).split()))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    rng.shuffle(batches)
    return batches


def masked_batch(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, step: int
) -> dict[str, torch.Tensor]:
    """Rows of step ``step``: 15 % of the words are to be guessed (BERT's 80/10/10 rule).

    Returns
    -------
    dict of Tensor, each (rows, tokens), int64
        ``input_ids``, ``attention_mask``, ``labels`` (-100 where there is
        nothing to guess), and ``token_type_ids`` where the tokenizer has them.
    """
    rows = _pool(config.seed, config.batch_size, step // STEPS_PER_POOL)[step % STEPS_PER_POOL]
    pairs = [row if row[1] is not None else row[0] for row in rows]
    encoded = tokenizer._tokenizer.encode_batch(pairs)
    length = min(max(len(row.ids) for row in encoded), config.max_length)
    ids = np.full((len(encoded), length), tokenizer.pad_token_id, dtype=np.int64)
    types = np.zeros_like(ids)
    for row, segments, encoding in zip(ids, types, encoded, strict=True):
        row[: len(encoding.ids)] = encoding.ids[:length]
        segments[: len(encoding.ids)] = encoding.type_ids[:length]
    rng = np.random.default_rng((config.seed, step))
    is_word = ids >= NUM_SPECIAL_TOKENS
    chosen = is_word & (rng.random(ids.shape) < MASKED_SHARE)
    labels = np.where(chosen, ids, -100)
    fate = rng.random(ids.shape)
    corrupted = np.where(chosen & (fate < 0.8), tokenizer.mask_token_id, ids)
    random_words = rng.integers(NUM_SPECIAL_TOKENS, len(tokenizer), ids.shape)
    corrupted = np.where(chosen & (fate >= 0.9), random_words, corrupted)
    batch = {
        "input_ids": corrupted,
        "attention_mask": (ids != tokenizer.pad_token_id).astype(np.int64),
        "labels": labels,
    }
    if "token_type_ids" in tokenizer.model_input_names:
        batch["token_type_ids"] = types
    return {name: torch.from_numpy(array) for name, array in batch.items()}
