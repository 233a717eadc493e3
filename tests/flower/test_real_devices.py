"""Devices with rows, memory and speed of their own: measured, asked anew, allowed to do less."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import needs_flower  # noqa: F401
import pytest
from flwr.app import Message
from loop_grid import LoopGrid

from fedquad.config import InputError
from fedquad.federation.own_device import OwnDevice
from fedquad.fleet.device_memory import DeviceMemory
from fedquad.flower import node
from fedquad.flower.run_config import RunConfig
from fedquad.flower.server_app import run_on
from fedquad.model.backbone import find_layers
from fedquad.tasks.task import load_task

NAMES = {41: "attic", 7: "cellar", 300: "porch"}


@pytest.fixture
def folders(tmp_path, make_glue) -> dict[int, Path]:
    """A folder a device: rows of its own, and no more than that."""
    found = {}
    for seed, (number, name) in enumerate(NAMES.items(), start=1):
        found[number] = tmp_path / name
        found[number].mkdir()
        rows = (make_glue(seed) / "SST-2" / "train.tsv").read_text()
        (found[number] / "train.tsv").write_text(rows)
    return found


@pytest.fixture
def options(tiny_federated, tmp_path) -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        config = tiny_federated(num_devices=3, num_rounds=2, **changes)
        return RunConfig(
            config=config,
            status="measured",
            store=tmp_path / "runs",
            connect_timeout_s=1.0,
            answer_timeout_s=5.0,
        )

    return make


def grid_of(folders: dict[int, Path]) -> LoopGrid:
    return LoopGrid({n: {"name": NAMES[n], "data": str(path)} for n, path in folders.items()})


def play(grid: LoopGrid, options: RunConfig) -> Any:
    return run_on(grid, options, say=lambda line: None)


def kinds(grid: LoopGrid) -> list[str]:
    return [message.metadata.message_type for message in grid.requests]


def test_devices_report_what_they_measure(options, folders):
    grid = grid_of(folders)
    result = play(grid, options())
    table = result.devices()
    assert list(table["device_id"][:3]) == ["attic", "cellar", "porch"]
    assert (table["memory_budget_bytes"] > 10**8).all()
    speeds = table.pivot(index="device_id", columns="round", values="flops_per_second")
    assert (speeds > 0).all(axis=None)
    assert (speeds[1] != speeds[2]).all()  # the second is that of the first round's own steps
    # An update brings the next status: nobody is asked twice.
    assert kinds(grid) == ["query.hello"] * 3 + ["train.fine_tune"] * 6


def test_devices_train_on_their_own_rows(options, folders):
    """Other rows on one device give another adapter; where rows lie does not matter."""
    losses = []
    for changed in (None, "attic"):
        if changed:
            text = (folders[7] / "train.tsv").read_text().splitlines()
            (folders[41] / "train.tsv").write_text("\n".join([text[0], *text[:0:-1]]))
        made = options(seed=len(losses))
        made = replace(made, config=replace(made.config, seed=0), fresh=True)
        losses.append([row["train_loss"] for row in play(grid_of(folders), made).rows])
    assert losses[0] != losses[1]


def test_a_device_that_was_silent_is_asked_again(options, folders):
    grid = grid_of(folders)

    def once(request: Message, reply: Message) -> Message | None:
        if request.metadata.message_type == "train.fine_tune":
            del grid.fates[7]
            return None
        return reply

    grid.fates[7] = once
    made = replace(options(), answer_timeout_s=0.2)
    result = play(grid, made)
    assert [row["failures"] for row in result.rows] == [1, 0]
    assert kinds(grid).count("query.hello") == 4


def test_a_device_that_runs_out_of_memory_does_less_and_gets_less(
    options, folders, caplog, monkeypatch
):
    """The first round's lesson is the second one's budget."""
    run_out_above(monkeypatch, depth=1)
    result = play(grid_of(folders), options(method="fedlora"))
    assert [row["failures"] for row in result.rows] == [0, 0]
    fell = [r.getMessage() for r in caplog.records if "fell back" in r.getMessage()]
    assert [line.split(" fell")[0] for line in fell] == [
        f"round {n}: {name}" for n in (1, 2) for name in ("attic", "cellar", "porch")
    ]
    assert "fell back to 1 trained, 0 quantized of 3 layers" in fell[0]
    budgets = result.devices().groupby("round")["memory_budget_bytes"].max()
    assert budgets[2] < budgets[1] / 10


def run_out_above(monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    """Every device's memory runs low in the forward when more layers than this are trained."""
    models = []

    class Low(DeviceMemory):
        def available_bytes(self) -> int:
            layers = find_layers(models[-1].get_base_model())
            trained = sum(any(w.requires_grad for w in layer.parameters()) for layer in layers)
            return -1 if trained > depth else 2**40

        def budget_bytes(self) -> int:
            return 2**40 if self.cap_bytes is None else self.cap_bytes

    def make(*arguments: Any) -> OwnDevice:
        host = OwnDevice(*arguments)
        models.append(host.model)
        return host

    monkeypatch.setattr(node, "DeviceMemory", Low)
    monkeypatch.setattr(node, "OwnDevice", make)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"data": "/no/such/folder"}, "a folder that holds train.tsv"),
        ({"data": ""}, "the folder with its train.tsv"),
        ({"memory-limit-mb": -1}, "memory-limit-mb in --node-config"),
        ({"name": ""}, "a name of the device"),
    ],
)
def test_a_node_that_is_not_set_up_is_said_why(options, folders, broken, reason):
    grid = grid_of(folders)
    grid.node_configs[7] |= broken
    with pytest.raises(InputError, match=reason):
        play(grid, options())


def test_two_devices_cannot_have_one_name(options, folders):
    grid = grid_of(folders)
    grid.node_configs[300]["name"] = "attic"
    with pytest.raises(InputError, match="a name other than that of node 41"):
        play(grid, options())


def test_a_limit_of_the_owners_is_the_devices_budget(options, folders, caplog):
    """Nothing fits: the device is left out of the choice, the others go on."""
    grid = grid_of(folders)
    grid.node_configs[7]["memory-limit-mb"] = 1
    result = play(grid, options())
    assert [row["participants"] for row in result.rows] == [2, 2]
    table = result.devices().set_index(["round", "device_id"])
    assert table.loc[(1, "cellar"), "memory_budget_bytes"] == 0
    assert not [r for r in caplog.records if r.levelno > logging.WARNING]


def test_the_servers_rows_are_those_that_are_evaluated(options, folders):
    result = play(grid_of(folders), options())
    assert result.rows[-1]["num_eval"] == len(load_task("sst2").eval)
