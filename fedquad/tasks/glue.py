"""GLUE (https://gluebenchmark.com), and any folder that is laid out like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedquad.config import InputError, require_choice
from fedquad.paths import glue_folder
from fedquad.tasks.hub import hub_file
from fedquad.tasks.task import Refusal, Split, Task, fingerprint_of
from fedquad.tasks.tsv import Row, Table, read_tsv

HUB_REPOSITORY = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
TRAIN_FILES = ("train.tsv",)
EVAL_FILES = ("dev.tsv", "dev_matched.tsv", "validation.tsv")
MAX_LABELS = 50  # more distinct labels than this are ids or scores, not classes


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    ``label_names`` are in GLUE's numeric order: files may hold the name or the
    number. ``folder`` is its folder in GLUE's download; ``text_columns`` and
    ``hub_eval`` are those of the hub's files.
    """

    application: str
    folder: str
    label_names: tuple[str, ...]
    text_columns: tuple[str, ...]
    hub_eval: str = "validation"


GLUE_TASKS: dict[str, GlueTask] = {
    "mnli": GlueTask(
        "Textual Entailment",
        "MNLI",
        ("entailment", "neutral", "contradiction"),
        ("premise", "hypothesis"),
        hub_eval="validation_matched",
    ),
    "qqp": GlueTask(
        "Semantic Equivalence", "QQP", ("not_duplicate", "duplicate"), ("question1", "question2")
    ),
    "qnli": GlueTask(
        "Question Answering", "QNLI", ("entailment", "not_entailment"), ("question", "sentence")
    ),
    "sst2": GlueTask("Sentiment Analysis", "SST-2", ("negative", "positive"), ("sentence",)),
    "mrpc": GlueTask(
        "Semantic Equivalence", "MRPC", ("not_equivalent", "equivalent"), ("sentence1", "sentence2")
    ),
    "rte": GlueTask(
        "Textual Entailment", "RTE", ("entailment", "not_entailment"), ("sentence1", "sentence2")
    ),
    "cola": GlueTask(
        "Linguistic Acceptability", "CoLA", ("unacceptable", "acceptable"), ("sentence",)
    ),
}


def load_glue(task: str) -> Task:
    """A GLUE task, from `fedquad.paths.glue_folder` if that has it, else from the hub.

    Raises
    ------
    InputError
        The local files cannot be used, or there are none and no network.
    """
    require_choice("task", task, GLUE_TASKS)
    folder = local_glue(task)
    return read_hub(task) if folder is None else read_glue_folder(folder, task)


def local_glue(task: str) -> Path | None:
    """The task's folder (``SST-2`` or ``sst2``, say) inside the local GLUE folder, or None."""
    root = glue_folder()
    if root is None:
        return None
    if not root.is_dir():
        raise InputError("FEDQUAD_GLUE", str(root), "a folder that exists")
    for name in (GLUE_TASKS[task].folder, task):
        if (root / name).is_dir():
            return root / name
    return None


def read_glue_folder(folder: str | Path, task: str | None = None) -> Task:
    """Read ``train.tsv`` and the evaluation file of a folder.

    Parameters
    ----------
    folder : path
        Holds ``train.tsv`` and ``dev.tsv`` (or ``dev_matched.tsv`` or
        ``validation.tsv``; the first of these that is there), in a layout of
        `tsv.LAYOUTS` or CoLA's.
    task : str or None
        A GLUE task, whose label set is fixed; None takes as labels the sorted
        values found in training.

    Returns
    -------
    Task
        Rows without text or with a label outside the set are in ``refused``.

    Raises
    ------
    InputError
        A file is missing or cannot be used, no row of a split is usable, or
        the labels found are fewer than 2 or more than 50.
    """
    folder = Path(folder)
    train_path, eval_path = _find(folder, TRAIN_FILES), _find(folder, EVAL_FILES)
    train_table, eval_table = read_tsv(train_path), read_tsv(eval_path)
    pairs = train_table.has_pairs
    if task is not None:
        require_choice("task", task, GLUE_TASKS)
        pairs = len(GLUE_TASKS[task].text_columns) == 2
    for path, table in ((train_path, train_table), (eval_path, eval_table)):
        if table.has_pairs != pairs:
            kind = "sentence pairs" if pairs else "single sentences"
            raise InputError("file", str(path), f"a file of {kind}, as the task is")
    if task is None:
        label_names = _labels_found(train_table, train_path)
        application, codes = "Text Classification", _codes(label_names, numeric=False)
    else:
        label_names, application = GLUE_TASKS[task].label_names, GLUE_TASKS[task].application
        codes = _codes(label_names, numeric=True)
    train = _split(train_table, codes, train_path)
    evaluation = _split(eval_table, codes, eval_path)
    name = folder.resolve().name
    return Task(
        name=task or name,
        application=application,
        label_names=label_names,
        train=train,
        eval=evaluation,
        fingerprint=fingerprint_of(label_names, train, evaluation),
        source=f"{name}/{train_path.name} and {eval_path.name}",
    )


def read_hub(task: str) -> Task:
    """A GLUE task from ``nyu-mll/glue`` on the Hugging Face hub, at a pinned revision.

    Raises
    ------
    InputError
        Not in the local cache of the hub, and no network.
    """
    require_choice("task", task, GLUE_TASKS)
    spec = GLUE_TASKS[task]
    codes = _codes(spec.label_names, numeric=True)
    offline_ways = (
        f"a network, or a local copy of GLUE (train.tsv and dev.tsv in a folder {spec.folder}) in "
        "data/glue or where FEDQUAD_GLUE says, or the path of a folder with these files as the task"
    )
    splits = []
    for name in ("train", spec.hub_eval):
        path = hub_file(
            HUB_REPOSITORY,
            f"{task}/{name}-00000-of-00001.parquet",
            HUB_REVISION,
            field="task",
            value=task,
            offline_ways=offline_ways,
        )
        splits.append(_split(_read_parquet(path, spec), codes, path))
    train, evaluation = splits
    return Task(
        name=task,
        application=spec.application,
        label_names=spec.label_names,
        train=train,
        eval=evaluation,
        fingerprint=fingerprint_of(spec.label_names, train, evaluation),
        source=f"{HUB_REPOSITORY} at {HUB_REVISION[:8]}",
    )


def read_train_rows(folder: str | Path, label_names: Sequence[str]) -> Split:
    """The rows of ``train.tsv`` alone, with given labels: a device's own part of a task.

    A device need not hold every label, nor rows to evaluate on.

    Parameters
    ----------
    folder : path
    label_names : sequence of str
        Of the whole task, in its order. Files may hold the names or, where these
        are not numbers themselves, their numbers.

    Raises
    ------
    InputError
        The file is missing or cannot be used, or no row of it is usable.
    """
    path = _find(Path(folder), TRAIN_FILES)
    numeric = not any(name.isdecimal() for name in label_names)
    return _split(read_tsv(path), _codes(tuple(label_names), numeric=numeric), path)


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError("task", str(folder), f"a folder that holds {' or '.join(names)}")


def _read_parquet(path: Path, spec: GlueTask) -> Table:
    import pyarrow.parquet  # for rows from the hub alone

    columns = [*spec.text_columns, "label"]
    try:
        table = pyarrow.parquet.read_table(path, columns=columns)
        values = [table.column(name).to_pylist() for name in columns]
    except (OSError, ValueError, KeyError) as error:
        accepted = f"a parquet file with the columns {', '.join(columns)} ({error})"
        raise InputError("file", str(path), accepted) from error
    pairs = len(spec.text_columns) == 2
    rows = []
    for line, (*texts, label) in enumerate(zip(*values, strict=True), start=1):
        text_a, text_b = (texts[0] or "", (texts[1] or "") if pairs else None)
        rows.append(Row(line, text_a, text_b, str(label)))
    return Table(rows=rows, has_pairs=pairs, refused=[])


def _codes(label_names: tuple[str, ...], *, numeric: bool) -> dict[str, int]:
    codes = {name: code for code, name in enumerate(label_names)}
    return codes | {str(code): code for code in codes.values()} if numeric else codes


def _labels_found(table: Table, path: Path) -> tuple[str, ...]:
    found = sorted({row.label.strip() for row in table.rows if not _is_empty(row)} - {""})
    if len(found) < 2 or len(found) > MAX_LABELS:
        some = ", ".join(found[:3])
        accepted = (
            f"a label column with 2 to {MAX_LABELS} different values (is it the right column?); "
            f"found {len(found)} in {path.name}: {some}{', …' if len(found) > 3 else ''}"
        )
        raise InputError("file", str(path), accepted)
    return tuple(found)


def _is_empty(row: Row) -> bool:
    return not row.text_a.strip() or (row.text_b is not None and not row.text_b.strip())


def _split(table: Table, codes: Mapping[str, int], path: Path) -> Split:
    rows, labels, refused = [], [], list(table.refused)
    for row in table.rows:
        label = row.label.strip()
        if _is_empty(row):
            refused.append(Refusal(row.line, "empty text"))
        elif label not in codes:
            refused.append(Refusal(row.line, f"label {label!r} is not one of {', '.join(codes)}"))
        else:
            rows.append(row)
            labels.append(codes[label])
    refused.sort(key=lambda refusal: refusal.line)
    if not rows:
        why = f"; line {refused[0].line}: {refused[0].reason}" if refused else ""
        raise InputError("file", str(path), f"at least one usable row after the header{why}")
    return Split(
        texts_a=[row.text_a for row in rows],
        texts_b=[row.text_b for row in rows] if table.has_pairs else None,
        labels=np.array(labels, dtype=np.int64),
        refused=tuple(refused),
    )
