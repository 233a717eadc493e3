"""Rounds on Flower's nodes: the engine's own bytes, and an end for every request."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs_flower  # noqa: F401
import pytest
from flwr.app import Error, Message, RecordDict
from loop_grid import LoopGrid

from fedquad.config import InputError
from fedquad.federation.runs import run_federated, run_settings
from fedquad.federation.wire import encode
from fedquad.flower.payloads import ANSWER, JOB
from fedquad.flower.records import read, record
from fedquad.flower.run_config import RunConfig
from fedquad.flower.server_app import run_on
from fedquad.runs.store import RunStore
from fedquad.training.local import DivergenceError

# Flower's ids are random, and in no order.
IDS = (907, 13, 5551, 202)
SIMULATED = {node: {"partition-id": n, "num-partitions": 4} for n, node in enumerate(IDS)}


@pytest.fixture
def options(tiny_federated, tmp_path) -> Callable[..., RunConfig]:
    def make(config: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
        values = {"store": tmp_path / "flower", "connect_timeout_s": 1.0, "answer_timeout_s": 1.0}
        return RunConfig(config=tiny_federated(**config or {}), **values | changes)

    return make


def play(grid: LoopGrid, options: RunConfig) -> Any:
    return run_on(grid, options, say=lambda line: None)


def results_bytes(options: RunConfig, store: Path) -> bytes:
    folder = RunStore(store).directory(run_settings(options.config))
    return (folder / "results.jsonl").read_bytes()


@pytest.mark.parametrize("method", ["fedquad", "fedra", "layersel", "hetlora"])
def test_results_are_the_engines_bytes(options, tmp_path, method):
    chosen = options({"method": method}, max_under_way=2)
    play(LoopGrid(SIMULATED), chosen)
    run_federated(chosen.config, RunStore(tmp_path / "engine"))
    assert results_bytes(chosen, tmp_path / "flower") == results_bytes(chosen, tmp_path / "engine")


def test_a_device_is_sent_what_it_runs_and_no_more(options):
    grid = LoopGrid(SIMULATED)
    play(grid, options({"method": "fedra", "num_rounds": 1}))
    sizes = {}
    for message in grid.requests:
        if message.metadata.message_type == "train.fine_tune":
            job = read(message.content, JOB)
            layers = tuple(job.get("assignment")["active_layers"])
            names = read(message.content, "adapter").tensors
            held = {int(name.split(".")[1]) for name in names if name.startswith("layers.")}
            assert held == set(layers)
            sizes[len(layers)] = len(names)
    assert len(sizes) > 1  # devices of several sizes took part


def spoiled(reason: str) -> Callable[[Message, Message], Message | None]:
    """A fate that spoils what a device sends after its steps."""

    def fate(request: Message, reply: Message) -> Message | None:
        if request.metadata.message_type != "train.fine_tune":
            return reply
        if reason == "silent":
            return None
        if reason == "raises":
            return Message(Error(code=2, reason="<class 'ZeroDivisionError'>"), reply_to=request)
        if reason == "empty":
            return Message(RecordDict(), reply_to=request)
        if reason == "text":
            return Message(RecordDict({ANSWER: record(b"no payload at all")}), reply_to=request)
        if reason == "pickle":
            content = RecordDict({ANSWER: record(b"\x80\x04\x95\x0b\x00\x00\x00.")})
            return Message(content, reply_to=request)
        if reason == "other kind":
            content = RecordDict({ANSWER: record(encode("received", {}))})
            return Message(content, reply_to=request)
        whole = reply.content[ANSWER]["payload"]
        if reason == "truncated":
            return Message(RecordDict({ANSWER: record(whole[:-7])}), reply_to=request)
        assert reason == "oversized"
        content = RecordDict({ANSWER: record(whole + bytes(2**25))})
        return Message(content, reply_to=request)

    return fate


FAULTS = ["silent", "raises", "empty", "text", "pickle", "other kind", "truncated", "oversized"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_device_that_fails_is_named_counted_and_left_out(options, caplog, fault):
    grid = LoopGrid(SIMULATED, {IDS[2]: spoiled(fault)})
    result = play(grid, options({"num_rounds": 1}, answer_timeout_s=0.2))
    (row,) = result.rows
    assert row["failures"] == 1
    assert row["participants"] == 3
    assert row["devices"]["completion_time_s"][2] is None
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("round 1: left out device-2: ")


def test_below_the_minimum_the_run_fails_and_goes_on_later(options, tmp_path):
    broken = {node: spoiled("raises") for node in IDS[:2]}
    with pytest.raises(DivergenceError, match=r"2 of 4 devices sent an update.*3 needed"):
        play(LoopGrid(SIMULATED, broken), options(min_updates=3))
    result = play(LoopGrid(SIMULATED), options(min_updates=3))
    assert [row["failures"] for row in result.rows] == [0, 0]


def test_a_node_that_comes_back_under_another_id_is_the_same_device(options, tmp_path):
    grid, chosen = LoopGrid(SIMULATED), options()

    def leave(request: Message, reply: Message) -> Message:
        if read_round(request) == 0:
            grid.node_configs[77] = grid.node_configs.pop(IDS[1])
        return reply

    grid.fates[IDS[3]] = leave  # the last device of the round
    play(grid, chosen)
    run_federated(chosen.config, RunStore(tmp_path / "engine"))
    assert results_bytes(chosen, tmp_path / "flower") == results_bytes(chosen, tmp_path / "engine")


def read_round(request: Message) -> int | None:
    is_job = request.metadata.message_type == "train.fine_tune"
    return read(request.content, JOB).integer("round_idx") if is_job else None


def test_a_node_that_is_gone_fails_its_rounds_and_no_others(options):
    grid = LoopGrid(SIMULATED)

    def leave(request: Message, reply: Message) -> Message:
        if read_round(request) == 0:
            del grid.node_configs[IDS[1]]
        return reply

    grid.fates[IDS[3]] = leave
    result = play(grid, options())
    assert [row["failures"] for row in result.rows] == [0, 1]


def test_too_few_nodes_are_said_to_be(options):
    three = dict(itertools.islice(SIMULATED.items(), 3))
    with pytest.raises(InputError, match=r"= 3 cannot be used: expected at least 4 within 0\.3 s"):
        play(LoopGrid(three), options(connect_timeout_s=0.3))


def test_a_node_beyond_the_number_of_devices_takes_no_part(options, caplog):
    grid = LoopGrid(SIMULATED | {9: {"partition-id": 4}})
    result = play(grid, options({"num_rounds": 1}))
    assert result.rows[0]["participants"] == 4
    assert "partition-id of a node = 4 cannot be used" in caplog.text


def test_an_own_method_is_not_imported_by_a_node(options):
    """A server could name any module; a node runs the library's methods alone."""
    with pytest.raises(InputError, match="a method of the library"):
        play(LoopGrid(SIMULATED), options({"method": "fedquad.methods.fedra:FedRA"}))
