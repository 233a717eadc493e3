"""Many runs of one kind of experiment: read where they are stored, computed where not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedquad.config import InputError, run_id
from fedquad.cost.latency import checked_device
from fedquad.runs.journal import StoreError
from fedquad.runs.pool import Report, run_all
from fedquad.runs.run import require_same
from fedquad.runs.store import RunStore, StoredRun
from fedquad.tasks.glue import GLUE_TASKS, local_glue
from fedquad.tasks.task import load_task

Config = TypeVar("Config")
Result = TypeVar("Result")


class Experiment(Generic[Config, Result]):
    """A kind of experiment: what identifies a run, how it is computed, what it becomes.

    Parameters
    ----------
    all_settings : callable
        From configs to the settings that their ids are the hash of.
    compute : callable
        ``compute((config, store root, fresh, torch device), report)`` fills the
        store with one run; importable by name, since workers call it.
    result_of : callable
        ``result_of(config, stored, from_record=…)``.
    length : callable
        From a config to the units of its part of the progress bar.
    unit, description : str
        Of the progress bar.
    sources_at_hand : callable, optional
        From a config to digests of what its run is computed from beside the task:
        those that are quick to make here. A record with others is refused.
    """

    def __init__(
        self,
        *,
        all_settings: Callable[[Iterable[Config]], list[dict[str, Any]]],
        compute: Callable[[tuple[Config, Path, bool, str], Report], None],
        result_of: Callable[..., Result],
        length: Callable[[Config], int],
        unit: str,
        description: str,
        sources_at_hand: Callable[[Config], dict[str, str]] = lambda config: {},
    ) -> None:
        self._all_settings = all_settings
        self._compute = compute
        self._result_of = result_of
        self._length = length
        self._unit = unit
        self._description = description
        self._sources_at_hand = sources_at_hand

    def read(self, config: Config, store: RunStore) -> Result | None:
        """The finished run of a config; None if there is none, or not yet.

        Raises
        ------
        StoreError
            The record is damaged, or was made from another content of the task,
            or other sources, than those at hand.
        """
        return self._read(config, self._all_settings([config])[0], store, _fingerprint_at_hand)

    def load_or_run(
        self,
        configs: Iterable[Config],
        store: RunStore,
        *,
        workers: int = 1,
        fresh: bool = False,
        progress: bool = True,
        torch_device: str = "cpu",
        recorded_only: bool = False,
    ) -> list[Result]:
        """Results of all these runs, in their order; equal ones are run once.

        With ``recorded_only`` nothing is computed: runs that are not there are left out.
        """
        configs = list(configs)
        settings = self._all_settings(configs)
        ids = [run_id(one) for one in settings]
        unique = dict(zip(ids, zip(configs, settings, strict=True), strict=True))
        fingerprint = lru_cache(_fingerprint_at_hand)
        results = {}
        if not fresh:
            for key, (config, one) in unique.items():
                if result := self._read(config, one, store, fingerprint):
                    results[key] = result
        if recorded_only:
            return [results[key] for key in ids if key in results]
        missing = {key: pair for key, pair in unique.items() if key not in results}
        if missing:
            checked_device(torch_device)
        run_all(
            self._compute,
            [(config, store.root, fresh, torch_device) for config, _ in missing.values()],
            [self._length(config) for config, _ in missing.values()],
            workers=workers,
            progress=progress,
            description=self._description,
            unit=self._unit,
        )
        for key, (config, one) in missing.items():
            results[key] = self._result_of(config, _finished(store, one), from_record=False)
        return [results[key] for key in ids]

    def _read(
        self,
        config: Config,
        settings: dict[str, Any],
        store: RunStore,
        fingerprint: Callable[[str], str | None],
    ) -> Result | None:
        stored = store.read(settings)
        if stored is None:
            return None
        wanted = stored.sources | self._sources_at_hand(config)
        if now := fingerprint(config.task):
            wanted["task"] = now
        require_same("sources", stored.sources, wanted, stored.directory)
        if (stored.directory / "checkpoint").exists():  # killed just after its final row
            with suppress(StoreError):
                store.open(settings, stored.sources).close()
        return self._result_of(config, stored, from_record=True)


def _finished(store: RunStore, settings: dict[str, Any]) -> StoredRun:
    stored = store.read(settings)
    if stored is None:
        raise StoreError(f"{store.directory(settings)} was computed and is gone")
    return stored


def _fingerprint_at_hand(task: str) -> str | None:
    """Fingerprint of a task's content, None if it is not on this machine."""
    try:
        if task in GLUE_TASKS and local_glue(task) is None:
            return None
        return load_task(task).fingerprint
    except InputError:
        return None
