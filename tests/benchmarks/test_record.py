import json

import pytest

from fedquad.benchmarks.machine import MUST_AGREE, describe_machine, slug, sources_digest
from fedquad.benchmarks.record import Record
from fedquad.config import InputError


def row(method="none", **values):
    return {"kind": "steps", "model": "m", "method": method, "status": "ok", **values}


def test_rows_replace_those_of_the_same_key(machine, tmp_path):
    path = tmp_path / "folder" / "cpu.json"
    record = Record(path, machine)
    record.add("a group", [row(value=1), row("hooks", value=2)])
    record.add("a group", [row(value=3)])
    assert [(each["method"], each["value"]) for each in record.rows] == [("hooks", 2), ("none", 3)]
    again = Record(path, machine)
    assert again.rows == record.rows
    assert again.has("a group")
    assert not again.has("another")
    assert [each.name for each in path.parent.iterdir()] == ["cpu.json"]


@pytest.mark.parametrize("name", MUST_AGREE)
def test_another_machine_or_other_code_is_refused(name, machine, tmp_path):
    path = tmp_path / "cpu.json"
    Record(path, machine).add("a group", [row()])
    other = {**machine, name: "other"}
    with pytest.raises(InputError, match=f"a record with {name} = 'other'"):
        Record(path, other)
    fresh = Record(path, other, fresh=True)
    assert fresh.rows == []
    assert json.loads(path.read_text())["rows"]  # until there is something to put in its place
    assert Record(path, {**machine, "commit": "another"}).rows


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"machine": {}, "groups": [], "rows": 1}',
        '{"machine": {}, "groups": [], "rows": [{"status": "fine"}]}',
        '{"machine": {}, "groups": [], "rows": [{}]}',
    ],
)
def test_a_damaged_file_is_refused_and_kept(content, machine, tmp_path):
    path = tmp_path / "cpu.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"cpu\.json"):
        Record(path, machine)
    assert path.read_text() == content


def test_names_of_cards_become_file_names():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert slug("AMD EPYC (family 25)") == "amd-epyc-family-25"


def test_a_machine_says_what_was_timed():
    machine = describe_machine("cpu")
    assert set(MUST_AGREE) <= set(machine)
    assert machine["sources"] == sources_digest()
    assert machine["driver"] is None
    json.dumps(machine, allow_nan=False)
