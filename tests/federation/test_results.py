from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from toy_server import make_setting, statuses, store_run

from fedquad.config import InputError
from fedquad.federation.results import ROUND_COLUMNS, FederatedResult, federated_frames
from fedquad.federation.round_record import DEVICE_COLUMNS
from fedquad.runs.store import RunStore

DEVICES = statuses((3, 10.0), (1, 9.0), (2, 31.0), (0, 25.0))


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> FederatedResult:
    """FedQuad on four devices, one of which fits nothing and one of which fails once."""
    folder = tmp_path_factory.mktemp("toy")
    options = (("first_mean_time_scale", 2.0),)
    setting = make_setting(DEVICES, method="fedquad", method_options=options, num_rounds=3)

    def fail_in_the_last(row, host) -> None:
        host.fates = {"2": "diverge"} if row["round"] == 2 else {}

    return store_run(setting, RunStore(folder / "runs"), folder, on_round=fail_in_the_last)


def test_a_round_is_the_sum_of_its_devices(result):
    rounds, devices = result.rounds(), result.devices()
    assert list(rounds["participants"]) == [3, 3, 2]
    assert list(rounds["failures"]) == [0, 0, 1]
    for row in rounds.itertuples():
        there = devices[(devices["round"] == row.round) & devices["participated"]]
        assert len(there) == row.participants
        assert row.round_time_s == there["completion_time_s"].max()
        assert row.mean_completion_time_s == pytest.approx(there["completion_time_s"].mean())
        assert row.mean_waiting_time_s == pytest.approx(there["waiting_time_s"].mean())
        assert row.download_bytes == there["download_bytes"].sum()
        assert row.upload_bytes == there["upload_bytes"].sum()
        assert row.mean_depth == pytest.approx(there["depth"].mean())
        assert row.mean_quantized == pytest.approx(there["quantized"].astype(float).mean())
        assert row.memory_overruns == there["is_overrun"].sum() == 0
    np.testing.assert_allclose(rounds["sim_time_s"], rounds["round_time_s"].cumsum())
    assert result.sim_time_s == rounds["sim_time_s"].iloc[-1]
    assert result.accuracy == rounds["accuracy"].iloc[-1]
    assert result.mean_waiting_time_s == pytest.approx(rounds["mean_waiting_time_s"].mean())


def test_who_did_not_take_part_has_no_times(result):
    devices = result.devices()
    absent = devices[~devices["participated"]]
    assert list(zip(absent["round"], absent["device_id"], strict=True)) == [
        (1, "four"),
        (2, "four"),
        (3, "three"),
        (3, "four"),
    ]
    assert (absent["depth"] == 0).all()
    assert absent[["completion_time_s", "waiting_time_s", "memory_bytes"]].isna().all(axis=None)
    assert not absent["is_overrun"].any()


def test_accuracy_is_that_of_the_rows_it_keeps(result):
    for row in result.rounds().itertuples():
        packed = np.frombuffer(bytes.fromhex(row.correct), np.uint8)
        assert np.unpackbits(packed, count=row.num_eval).mean() == row.accuracy


def test_every_row_says_which_run_it_is_of(result):
    rounds, devices = result.rounds(), result.devices()
    for table in (rounds, devices):
        assert set(table["run_id"]) == {result.run_id}
        assert set(table["options"]) == {"first_mean_time_scale=2"}
        assert set(table["num_devices"]) == {4}
    assert set(ROUND_COLUMNS) < set(rounds.columns)
    assert set(DEVICE_COLUMNS) < set(devices.columns)
    assert set(rounds["lora_rank"]) == {4}
    assert not rounds["from_record"].any()
    assert result.telemetry["wall_time_s"] == 1.5  # of the last round's row
    assert result.telemetry["attempts"] == 1


def test_tables_are_written_and_read_back(result, tmp_path):
    paths = result.save_tables(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["rounds.csv", "devices.csv"]
    for path, table in zip(paths, (result.rounds(), result.devices()), strict=True):
        again = pd.read_csv(path, keep_default_na=False)
        assert list(again.columns) == list(table.columns)
        np.testing.assert_array_equal(
            pd.to_numeric(again["depth" if "depth" in again else "accuracy"]),
            table["depth" if "depth" in table else "accuracy"],
        )


def test_frames_hold_several_runs(result):
    rounds, devices = federated_frames([result, result])
    assert (len(rounds), len(devices)) == (6, 24)
    with pytest.raises(InputError, match="at least one"):
        federated_frames([])
