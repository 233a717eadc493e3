"""Where encoders and text come from: shipped files, local folders, the hub."""

from __future__ import annotations

import threading

from fedquad.config import InputError
from fedquad.doctor.finding import Finding
from fedquad.paths import glue_folder

HUB_WAIT_S = 6.0  # a name server that does not answer can hold a request longer than its timeout


def weights(model: str) -> Finding:
    from fedquad.model.pretrained import find_pretrained

    pretrained = find_pretrained(model)  # checks the recorded SHA-256
    detail = f"{pretrained.folder}, SHA-256 {pretrained.sha256[:12]}…"
    return Finding(f"{model} encoder", "ok", detail)


def glue() -> Finding:
    tasks = local_tasks()
    if tasks:
        return Finding("glue", "ok", f"{', '.join(tasks)} in {glue_folder()}")
    folder = glue_folder()
    where = "no local folder" if folder is None else f"no task in {folder}"
    remedy = "put GLUE's folders (SST-2, MNLI, …) into data/glue, or name one in FEDQUAD_GLUE"
    return Finding("glue", "limited", f"{where}: the hub is the only source", remedy)


def local_tasks() -> list[str]:
    from fedquad.tasks.glue import GLUE_TASKS, TRAIN_FILES, local_glue

    folders = {task: local_glue(task) for task in GLUE_TASKS}
    return [
        task
        for task, folder in folders.items()
        if folder is not None and any((folder / name).is_file() for name in TRAIN_FILES)
    ]


def hub() -> Finding:
    """Ask the hub in a thread that is left behind if it hangs."""
    remedy = "the embedded profiles need none; text and encoders may come from local folders"
    answer: list[Finding] = []

    def ask() -> None:
        try:
            from fedquad.tasks.hub import require_hub

            require_hub("hub", "the hub", "a network")
            answer.append(Finding("hub", "ok", "the Hugging Face hub answers"))
        except (ImportError, OSError, InputError) as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            answer.append(Finding("hub", "limited", f"out of reach: {reason}", remedy))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_WAIT_S)
    silent = Finding("hub", "limited", f"out of reach: no answer in {HUB_WAIT_S:.0f} s", remedy)
    return answer[0] if answer else silent
