"""Table II from the sources."""

from __future__ import annotations

import pandas as pd

from fedquad.tasks.microworld import MICRO_TASKS, make_task
from fedquad.tasks.sources import table_ii

COLUMNS = [
    "dataset",
    "application",
    "train_rows",
    "eval_rows",
    "refused_rows",
    "source",
    "paper_train",
    "paper_test",
]


def test_counts_what_is_there_and_says_what_is_not(tsv_folder, monkeypatch):
    single = "sentence\tlabel\na\t0\nb\t1\n"
    tsv_folder("SST-2", train=single + "c\t7\n\nd\t1\n", dev=single)
    root = tsv_folder("QQP", train="question1\tquestion2\nx\ty\n", dev=single).parent
    monkeypatch.setenv("FEDQUAD_GLUE", str(root))
    frame = table_ii()
    assert list(frame.columns) == COLUMNS
    assert frame["dataset"].tolist() == [*MICRO_TASKS, "MNLI", "QQP", "QNLI", "SST-2"]
    rows = frame.set_index("dataset")
    assert rows.loc["SST-2", ["train_rows", "eval_rows", "refused_rows"]].tolist() == [3, 2, 2]
    assert rows.loc["SST-2", ["paper_train", "paper_test"]].tolist() == [67_349, 1_821]
    assert pd.isna(rows.loc["MNLI", "train_rows"])
    assert "no local GLUE folder" in rows.loc["MNLI", "source"]
    assert "is_duplicate" in rows.loc["QQP", "source"]
    assert pd.isna(rows.loc["QQP", "eval_rows"])
    micro = make_task("micro-mnli")
    assert rows.loc["micro-mnli", "train_rows"] == len(micro.train)
    assert rows["application"].notna().all()


def test_applications_are_those_of_the_paper():
    rows = table_ii().set_index("dataset")
    for micro, glue in zip(MICRO_TASKS, ("MNLI", "QQP", "QNLI", "SST-2"), strict=True):
        assert rows.loc[micro, "application"] == rows.loc[glue, "application"]
