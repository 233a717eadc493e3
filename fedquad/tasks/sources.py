"""Table II of the paper, counted in the sources themselves."""

from __future__ import annotations

import pandas as pd

from fedquad.config import InputError
from fedquad.tasks.glue import GLUE_TASKS, local_glue, read_glue_folder
from fedquad.tasks.microworld import MICRO_TASKS, make_task
from fedquad.tasks.task import Task

# Samples for training and testing that the paper's Table II states. Its 1,821 test samples of
# SST-2 are GLUE's unlabelled test split; the labelled evaluation split has 872 rows.
PAPER_SAMPLES: dict[str, tuple[int, int]] = {
    "mnli": (392_702, 9_815),
    "qqp": (363_846, 40_430),
    "qnli": (104_743, 5_463),
    "sst2": (67_349, 1_821),
}


def table_ii() -> pd.DataFrame:
    """The micro-world's tasks and the paper's four, with the rows that are really there.

    Nothing is downloaded: a GLUE task without local files has no counts, and
    ``source`` says why.

    Returns
    -------
    DataFrame
        ``dataset, application, train_rows, eval_rows, refused_rows, source,
        paper_train, paper_test``; counts are nullable integers.
    """
    rows = [_counted(name, make_task(name)) for name in MICRO_TASKS]
    for name, (paper_train, paper_test) in PAPER_SAMPLES.items():
        spec = GLUE_TASKS[name]
        row = {"dataset": spec.folder, "application": spec.application}
        try:
            folder = local_glue(name)
            if folder is None:
                row["source"] = "not available: no local GLUE folder has it"
            else:
                row = _counted(spec.folder, read_glue_folder(folder, name))
        except InputError as error:
            row["source"] = f"not available: {error}"
        rows.append(row | {"paper_train": paper_train, "paper_test": paper_test})
    counts = ["train_rows", "eval_rows", "refused_rows"]
    papers = ["paper_train", "paper_test"]
    frame = pd.DataFrame(rows, columns=["dataset", "application", *counts, "source", *papers])
    return frame.astype(dict.fromkeys([*counts, *papers], "Int64"))


def _counted(dataset: str, task: Task) -> dict[str, object]:
    return {
        "dataset": dataset,
        "application": task.application,
        "train_rows": len(task.train),
        "eval_rows": len(task.eval),
        "refused_rows": len(task.train.refused) + len(task.eval.refused),
        "source": task.source,
    }
