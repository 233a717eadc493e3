"""``fedquad pretrain``: the embedded encoder, from its recipe."""

from __future__ import annotations

from pathlib import Path

from fedquad.cli.options import print_json


def pretrain(
    *, output: Path | None = None, steps: int | None = None, seed: int | None = None
) -> None:
    """Pretrain the embedded encoder on the micro-world's text and write it to a folder.

    Takes hours on one core. A run that was stopped goes on from its last
    checkpoint when the same folder is named again.

    Parameters
    ----------
    output
        Folder for weights, tokenizer and card, instead of the one that ships.
    steps
        Optimizer steps, instead of the recipe's.
    seed
        Initial weights, text and masks, instead of the recipe's.
    """
    from fedquad import paths
    from fedquad.training.pretrain import PretrainConfig
    from fedquad.training.pretrain import pretrain as run

    changed = {"num_steps": steps, "seed": seed}
    settings = {name: value for name, value in changed.items() if value is not None}
    if steps is not None:
        settings["warmup_steps"] = min(PretrainConfig.warmup_steps, steps)
    folder = output or paths.package_data() / "encoders" / "embedded"
    print_json(run(PretrainConfig(**settings), folder))
