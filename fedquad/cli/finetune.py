"""``fedquad finetune``: one central fine-tuning run, stored and printed."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Annotated, Any

from cyclopts import Parameter

from fedquad.cli.options import ALL_LAYERS, LayerChoice, options_from, print_json
from fedquad.config import FineTuneConfig

FineTuneOptions = options_from(
    FineTuneConfig,
    "FineTuneOptions",
    without=("tuning", "trainable_layers", "quantized_layers"),
)
_DEFAULTS = FineTuneOptions()
# The paper counts steps and rows; "num" is a word of the code.
_SHORT = {"num_steps": "steps"}


def finetune(
    options: Annotated[
        FineTuneOptions,
        Parameter(name="*", name_transform=lambda name: _SHORT.get(name, name).replace("_", "-")),
    ] = _DEFAULTS,
    choice: Annotated[LayerChoice, Parameter(name="*", negative="")] = ALL_LAYERS,
    *,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fine-tune a model on a task and print its accuracy, its loss and the rows it read.

    The run is stored under data/runs/local. The same settings again are read
    from there; a run that was killed goes on from its last checkpoint.

    Parameters
    ----------
    fresh
        Compute it again, even if it is stored.
    json
        Print one JSON object instead of a table.
    """
    from fedquad import paths
    from fedquad.runs.finetune import load_or_run, run_settings
    from fedquad.runs.store import RunStore

    count_layers = lru_cache(lambda: _num_layers(options.model))
    config = FineTuneConfig(
        **dataclasses.asdict(options),
        tuning=choice.tuning,
        trainable_layers=choice.trainable_layers(count_layers),
        quantized_layers=choice.quantized_layers(count_layers),
    )
    store = RunStore(paths.runs_dir("local"))
    [result] = load_or_run([config], store, workers=1, fresh=fresh)
    values = {
        "accuracy": result.accuracy,
        "loss": result.loss if math.isfinite(result.loss) else None,
        "steps": result.steps,
        "rows_read": result.rows_read,
        "rows_refused": result.rows_refused,
        "rows_evaluated": len(result.correct),
        "first_refused": result.telemetry["refused"],
        "wall_time_s": result.telemetry["wall_time_s"],
        "from_record": result.from_record,
        "run_id": result.run_id,
        "folder": str(store.directory(run_settings(config))),
        "config": dataclasses.asdict(config),
    }
    if json:
        print_json(values)
    else:
        _print_text(values, choice)


def _num_layers(model: str) -> int:
    """Layers of any model; one that only the hub knows is downloaded, as training it needs."""
    from fedquad.model import pretrained

    at_hand = model in pretrained.SHIPPED_MODELS or pretrained.is_folder(model)
    if at_hand or pretrained.short_name(model) is not None:
        return pretrained.architecture(model).num_hidden_layers
    return pretrained.read_config(pretrained.find_pretrained(model).folder).num_hidden_layers


def _print_text(values: dict[str, Any], choice: LayerChoice) -> None:
    config = values["config"]
    print(f"{config['task']}, {config['model']}, {choice.describe()}, seed {config['seed']}")
    print(f"  accuracy      {100 * values['accuracy']:.2f} % of {values['rows_evaluated']} rows")
    loss = "not finite" if values["loss"] is None else f"{values['loss']:.4f}"
    print(f"  loss          {loss}")
    print(f"  steps         {values['steps']}")
    print(f"  rows read     {values['rows_read']}")
    print(f"  rows refused  {values['rows_refused']}")
    for row in values["first_refused"]:
        print(f"    {row['split']} line {row['line']}: {row['reason']}")
    origin = "read from the record" if values["from_record"] else "computed now"
    print(f"  {origin}, {values['wall_time_s']:.0f} s of training: {values['folder']}")
