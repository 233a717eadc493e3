"""What the paper states, what its code base hands down, and what had to be assumed."""

from __future__ import annotations

import pandas as pd

TAGS = {
    "paper": "stated in the paper",
    "inherited": "from FedPETuning, on which the paper's prototype was built",
    "assumed": "our choice, fixed before any result existed",
}

# (setting, value, tag, where the paper is silent or what follows from the choice)
_ROWS = (
    ("learning rate, paper scale", "1e-3", "paper", ""),
    ("learning rate, small encoders", "searched", "assumed", "once per encoder, on training rows"),
    ("schedule", "cosine", "paper", ""),
    ("step of the schedule", "one round", "assumed", "constant while a device trains"),
    ("optimizer", "AdamW", "paper", ""),
    ("weight decay, optimizer state", "0, fresh each round", "assumed", ""),
    ("batch size", "32", "paper", ""),
    ("tokens a row, training", "128", "paper", "Fig. 1(b) is measured at 256"),
    ("rounds, local epochs", "50, 1", "paper", ""),
    ("devices", "100, all in every round", "assumed", "the number is stated, participation is not"),
    ("LoRA rank and alpha", "16 and 16", "inherited", "FedPETuning has rank 8 for SST-2"),
    ("LoRA dropout", "0", "inherited", ""),
    ("LoRA targets", "query and value projections", "inherited", ""),
    ("head", "trained and averaged", "inherited", "every weight that the checkpoint lacks"),
    ("partition", "Dirichlet, alpha = 10", "paper", ""),
    ("rows per device", "floor(N / n), none twice", "inherited", "labels are topped up when out"),
    ("evaluation split", "GLUE validation", "inherited", "its test split has no labels"),
    ("precision of the accounting", "fp32, eager attention", "assumed", "attention maps are kept"),
    (
        "price of full fine-tuning",
        "batch 32, length 256",
        "assumed",
        "25 GB is stated without a size",
    ),
    ("3G and 4G", "3 and 20 Mbit/s each way", "assumed", "the paper names the networks only"),
    (
        "device of Fig. 1(a)",
        "TX2 in Max-Q, 123 local steps",
        "assumed",
        "123 steps are one epoch of a device's MNLI share",
    ),
    ("share of the peak reached", "0.3 of FP16", "assumed", "one factor for every Jetson mode"),
    ("reward offset c", "1e-4", "paper", "Eq. 18"),
    ("quantized layers", "at most depth - 1", "paper", "the output layer never is"),
)


def hyperparameter_table() -> pd.DataFrame:
    """Every setting with its value and the tag that says where it comes from.

    Returns
    -------
    DataFrame
        ``setting, value, tag, note``; the tags are explained in `TAGS`.
    """
    return pd.DataFrame(_ROWS, columns=["setting", "value", "tag", "note"])
