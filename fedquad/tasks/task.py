"""A task: labelled text in two splits, by name or from a folder, and its tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fedquad.config import InputError, require_int

# Rows given to the tokenizer at once: its encodings hold some kB a row until they are unpacked.
TOKENIZE_ROWS = 2048


@dataclass(frozen=True)
class Refusal:
    """A row that could not be used: its line in the file, counted from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Split:
    """Labelled rows.

    Parameters
    ----------
    texts_a : list of str
        The sentence, or the first one of each pair.
    texts_b : list of str or None
        The second sentences; None where a row is a single sentence.
    labels : ndarray of int64, shape (rows,)
        Indices into the task's ``label_names``.
    refused : tuple of Refusal
        Rows of the source that are not among these, by line.
    """

    texts_a: list[str]
    texts_b: list[str] | None
    labels: np.ndarray
    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.texts_a), len(self.labels)}
        if self.texts_b is not None:
            lengths.add(len(self.texts_b))
        if len(lengths) != 1:
            raise ValueError(f"texts and labels differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> Split:
        """The rows at ``indices``, in that order; what was refused stays on record."""
        texts_b = None if self.texts_b is None else [self.texts_b[i] for i in indices]
        return Split(
            [self.texts_a[i] for i in indices], texts_b, self.labels[indices], self.refused
        )


@dataclass(frozen=True)
class Task:
    """A classification task.

    ``fingerprint`` is that of the whole content (`fingerprint_of`), also where
    a subset is loaded; ``source`` says in words where the rows come from and
    never holds a path of this machine.
    """

    name: str
    application: str
    label_names: tuple[str, ...]
    train: Split
    eval: Split
    fingerprint: str
    source: str


def fingerprint_of(label_names: Sequence[str], train: Split, evaluation: Split) -> str:
    """SHA-256 over label names and rows: equal content, equal id, wherever it lies."""
    digest = hashlib.sha256(json.dumps(list(label_names)).encode())
    for name, split in (("train", train), ("eval", evaluation)):
        digest.update(f"\n{name} {len(split)}\n".encode())
        texts_b = split.texts_b or [None] * len(split)
        for row in zip(split.texts_a, texts_b, split.labels.tolist(), strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def load_task(
    name_or_folder: str, *, train_samples: int | None = None, eval_samples: int | None = None
) -> Task:
    """Load a task by name, or from a folder of TSV files.

    Parameters
    ----------
    name_or_folder : str
        A micro-world task, a GLUE task (from the local GLUE folder if that has
        it, else from the hub), or a folder (see `glue.read_glue_folder`).
    train_samples, eval_samples : int or None
        Rows to keep of each split: always the same ones, drawn at random once
        and for all, so that part of a file sorted by label is not one label.
        Smaller subsets are contained in larger ones. None, or more than there
        are, keeps all rows.

    Raises
    ------
    InputError
        Unknown name, files that cannot be used, or a hub out of reach.
    """
    from fedquad.tasks.glue import GLUE_TASKS, load_glue, read_glue_folder  # they import this file
    from fedquad.tasks.microworld import MICRO_TASKS, make_task

    for field, count in (("train_samples", train_samples), ("eval_samples", eval_samples)):
        if count is not None:
            require_int(field, count, 1)
    if name_or_folder in MICRO_TASKS:
        task = make_task(name_or_folder)
    elif name_or_folder in GLUE_TASKS:
        task = load_glue(name_or_folder)
    elif name_or_folder and Path(name_or_folder).expanduser().is_dir():
        task = read_glue_folder(Path(name_or_folder).expanduser())
    else:
        known = ", ".join((*MICRO_TASKS, *GLUE_TASKS))
        raise InputError("task", name_or_folder, f"one of {known}, or a folder with TSV files")
    return replace(
        task, train=_first(task.train, train_samples), eval=_first(task.eval, eval_samples)
    )


def _first(split: Split, count: int | None) -> Split:
    if count is None or count >= len(split):
        return split
    order = np.random.default_rng(0).permutation(len(split))
    return split.subset(np.sort(order[:count]))


def with_holdout(task: Task) -> Task:
    """The task with part of its training rows for evaluation; its own are not touched.

    For choosing settings: a fifth of the training rows, always the same ones
    and at most as many as the evaluation split has, are evaluated on and not
    trained on.
    """
    order = np.random.default_rng(1).permutation(len(task.train))
    count = min(len(task.train) // 5, len(task.eval))
    if count == 0:
        raise InputError("rows to train on", len(task.train), "5 or more, to hold a fifth out")
    return replace(
        task,
        train=task.train.subset(np.sort(order[count:])),
        eval=task.train.subset(np.sort(order[:count])),
    )


def task_identity(name_or_folder: str) -> str:
    """What a run id holds for a task: its name, or ``folder:<fingerprint>`` of its rows.

    A moved or renamed folder keeps its identity; an edited one changes it.
    """
    from fedquad.tasks.glue import GLUE_TASKS
    from fedquad.tasks.microworld import MICRO_TASKS

    if name_or_folder in MICRO_TASKS or name_or_folder in GLUE_TASKS:
        return name_or_folder
    return f"folder:{load_task(name_or_folder).fingerprint}"


@dataclass(frozen=True)
class TokenizedSplit:
    """A split as token ids, padded only when a batch is made.

    Parameters
    ----------
    input_ids : list of ndarray of int32
        One array a row, special tokens included, at most ``max_length`` long.
    token_type_ids : list of ndarray of int32 or None
        First or second sentence; None where the model does not use them.
    labels : ndarray of int64, shape (rows,)
    unknown_share : float
        Share of the tokens of the text (special tokens aside) that the
        tokenizer does not know, from 0 to 1.
    pad_token_id, pad_token_type_id : int
    """

    input_ids: list[np.ndarray]
    token_type_ids: list[np.ndarray] | None
    labels: np.ndarray
    unknown_share: float
    pad_token_id: int
    pad_token_type_id: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> TokenizedSplit:
        """The rows at ``indices``, in that order; their tokens are shared, not copied."""
        types = self.token_type_ids
        return replace(
            self,
            input_ids=[self.input_ids[i] for i in indices],
            token_type_ids=None if types is None else [types[i] for i in indices],
            labels=self.labels[indices],
        )

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """The rows at ``indices``, padded on the right to the longest of them.

        Returns
        -------
        dict of int64 tensors
            ``input_ids``, ``attention_mask`` and, where the model uses them,
            ``token_type_ids``, each (rows, tokens); ``labels``, (rows,).
        """
        input_ids = [self.input_ids[i] for i in indices]
        mask = [np.ones_like(row) for row in input_ids]
        batch = {
            "input_ids": _pad(input_ids, self.pad_token_id),
            "attention_mask": _pad(mask, 0),
        }
        if self.token_type_ids is not None:
            types = [self.token_type_ids[i] for i in indices]
            batch["token_type_ids"] = _pad(types, self.pad_token_type_id)
        batch["labels"] = torch.from_numpy(self.labels[indices])
        return batch


def _pad(rows: list[np.ndarray], value: int) -> torch.Tensor:
    padded = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def tokenize(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedSplit:
    """Tokenize every row once; pairs are cut from their longer sentence to ``max_length``.

    Raises
    ------
    InputError
        The tokenizer cannot pad.
    """
    if tokenizer.pad_token_id is None:
        raise InputError("tokenizer", tokenizer.name_or_path, "one with a padding token")
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "token_type_ids": []}
    num_tokens = num_unknown = 0
    for start in range(0, len(split), TOKENIZE_ROWS):
        rows = slice(start, start + TOKENIZE_ROWS)
        encoded = tokenizer(
            split.texts_a[rows],
            None if split.texts_b is None else split.texts_b[rows],
            truncation=True,
            max_length=max_length,
            return_special_tokens_mask=True,
        )
        for name, column in columns.items():
            column.extend(np.asarray(row, dtype=np.int32) for row in encoded.get(name, ()))
        for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            num_tokens += len(ids) - sum(special)
            num_unknown += ids.count(tokenizer.unk_token_id)
    return TokenizedSplit(
        input_ids=columns["input_ids"],
        token_type_ids=columns["token_type_ids"] or None,
        labels=split.labels,
        unknown_share=num_unknown / max(num_tokens, 1),
        pad_token_id=tokenizer.pad_token_id,
        pad_token_type_id=tokenizer.pad_token_type_id,
    )
