"""Rows of fine-tuning runs as the accuracy figures need them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedquad.config import InputError
from fedquad.report.intervals import decode_correct
from fedquad.runs.results import parse_layers

RUN_COLUMNS = [
    "task",
    "model",
    "layers",
    "seed",
    "steps",
    "accuracy",
    "num_eval",
    "correct",
    "from_record",
]


def lora_runs(results: pd.DataFrame) -> pd.DataFrame:
    """The LoRA runs without quantization, with ``trained``: their layers as a tuple."""
    runs = results[(results["tuning"] == "lora") & (results["quantized"] == 0)]
    return runs.assign(trained=[parse_layers(text) for text in runs["layers"]])


def accuracy_rows(runs: pd.DataFrame, by: str, *, profile: str) -> pd.DataFrame:
    """The columns of runs that a figure keeps, with ``profile`` and ``by`` in front.

    Raises
    ------
    InputError
        As `require_answers`.
    """
    rows = runs[[by, *RUN_COLUMNS]].copy()
    require_answers(rows)
    rows.insert(0, "profile", profile)
    return rows


def require_answers(rows: pd.DataFrame) -> None:
    """Raise `InputError` where an accuracy is not the mean of its per-item answers.

    The interval would then be that of something else.
    """
    for row in rows.itertuples():
        mean = decode_correct(row.correct, row.num_eval).mean()
        if not np.isclose(mean, row.accuracy, rtol=0, atol=1e-6):
            raise InputError("accuracy", row.accuracy, f"{mean}, the mean of `correct`")
