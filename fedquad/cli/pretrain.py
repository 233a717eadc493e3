"""``fedquad pretrain``: an embedded encoder, from its recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fedquad.cli.options import print_json


def pretrain(
    *,
    encoder: str = "embedded",
    output: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
) -> None:
    """Pretrain an embedded encoder on the micro-world's text and write it to a folder.

    Takes hours on one core. A run that was stopped goes on from its last
    checkpoint when the same folder is named again.

    Parameters
    ----------
    encoder
        embedded (RoBERTa's architecture), embedded-bert or embedded-deberta.
    output
        Folder for weights, tokenizer and card, instead of the one that ships.
    steps
        Optimizer steps, instead of the recipe's.
    seed
        Initial weights, text and masks, instead of the recipe's.
    """
    from fedquad import paths
    from fedquad.config import require_choice
    from fedquad.training.pretrain import pretrain as run
    from fedquad.training.small_encoders import RECIPES

    require_choice("encoder", encoder, RECIPES)
    recipe = RECIPES[encoder]
    changed = {"num_steps": steps, "seed": seed}
    settings = {name: value for name, value in changed.items() if value is not None}
    if steps is not None:
        settings["warmup_steps"] = min(recipe.warmup_steps, steps)
    folder = output or paths.package_data() / "encoders" / encoder
    print_json(run(dataclasses.replace(recipe, **settings), folder))
