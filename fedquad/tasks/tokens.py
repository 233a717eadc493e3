"""Both splits of a task as tokens, kept for the next run of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedquad.config import InputError
from fedquad.tasks.task import Task, TokenizedSplit, fingerprint_of, tokenize

if TYPE_CHECKING:
    from fedquad.model.backbone import Backbone

_last_tokens: dict[tuple[str, str, str, int], tuple[TokenizedSplit, TokenizedSplit]] = {}


def tokenize_task(
    task: Task, backbone: Backbone, max_length: int
) -> tuple[TokenizedSplit, TokenizedSplit]:
    """Training and evaluation rows as tokens; runs one after the other mostly have the same.

    Raises
    ------
    InputError
        Rows longer than the model can read.
    """
    content = fingerprint_of(task.label_names, task.train, task.eval)  # of the rows at hand
    key = (content, backbone.name, backbone.fingerprint, max_length)
    if key not in _last_tokens:
        _last_tokens.clear()
        _last_tokens[key] = (
            tokenize(task.train, backbone.tokenizer, max_length),
            tokenize(task.eval, backbone.tokenizer, max_length),
        )
    limit = backbone.max_length
    longest = max(len(row) for split in _last_tokens[key] for row in split.input_ids)
    if longest > limit:
        accepted = f"at most {limit}, which {backbone.name} can read; a row has {longest} tokens"
        raise InputError("max_length", max_length, accepted)
    return _last_tokens[key]
