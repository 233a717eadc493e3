"""``fedquad plan``: real files in, a choice that can be checked by hand out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from fedquad.cost.layer_costs import LayerCosts

COSTS = LayerCosts(
    num_layers=4,
    fixed_bytes=500,
    bytes_per_lora_layer=100,
    bytes_saved_per_quantized_layer=60,
    forward_flops=1000,
    flops_per_lora_layer=100,
    flops_per_quantized_layer=50,
)
COSTS_JSON = COSTS.to_json()
HEADER = "device_id,memory_budget_bytes,flops_per_second"


@pytest.fixture
def files(tmp_path):
    """Function that writes the inputs and returns the options that name them."""

    def write(fleet=("fast,1000,100", "slow,700,50"), norms=None, costs=COSTS_JSON):
        (tmp_path / "fleet.csv").write_text("\n".join([HEADER, *fleet]) + "\n")
        (tmp_path / "costs.json").write_text(costs)
        options = ["--fleet", tmp_path / "fleet.csv", "--costs", tmp_path / "costs.json"]
        if norms is not None:
            text = norms if isinstance(norms, str) else json.dumps(norms)
            (tmp_path / "norms.json").write_text(text)
            options += ["--gradient-norms", tmp_path / "norms.json"]
        return [str(option) for option in options]

    return write


def test_json_is_the_choice_of_every_device(files):
    options = [*files(norms=[4, 1, 2, 1.5]), "--mean-time", "12.5", "--json"]
    command = [sys.executable, "-m", "fedquad", "plan", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # fast: 11, 12, 13, 14 s with gains 1.5, 3.5, 4.5, 8.5; slow: 22 and 24 s, and (3, 2) in 28 s.
    assert json.loads(done.stdout) == [
        {
            "device_id": "fast",
            "depth": 3,
            "quantized": 0,
            "completion_time_s": 13.0,
            "memory_bytes": 800,
            "expected_gain": 4.5,
            "reward": 4.5 / (0.5 + 1e-4),
        },
        {
            "device_id": "slow",
            "depth": 2,
            "quantized": 0,
            "completion_time_s": 24.0,
            "memory_bytes": 700,
            "expected_gain": 3.5,
            "reward": 3.5 / (11.5 + 1e-4),
        },
    ]
    assert done.stderr == ""


def test_defaults_are_those_before_the_first_round(run, files):
    # Mean of (4, 0) on fast, 14 s, and (2, 0) on slow, 24 s: 19 s. All gains alike.
    _, out, _ = run("plan --json", *files())
    assert [(row["depth"], row["quantized"]) for row in json.loads(out)] == [(4, 0), (2, 0)]
    _, same, _ = run("plan --json --mean-time 19", *files(norms=[1, 1, 1, 1]))
    assert json.loads(same) == json.loads(out)


def test_a_tilde_is_the_home_folder(run, files, tmp_path, monkeypatch):
    _, expected, _ = run("plan --json", *files(norms=[4, 1, 2, 1.5]))
    monkeypatch.setenv("HOME", str(tmp_path))
    options = "--fleet=~/fleet.csv --costs=~/costs.json --gradient-norms=~/norms.json"
    _, out, err = run(f"plan --json {options}")
    assert (json.loads(out), err) == (json.loads(expected), "")


def test_local_steps_and_offset_are_those_of_the_formula(run, files):
    _, out, _ = run("plan --json --mean-time 130 --local-steps 10 --reward-offset 2", *files())
    [fast, slow] = json.loads(out)
    assert (fast["depth"], fast["completion_time_s"], fast["reward"]) == (3, 130, 1.5)
    assert (slow["depth"], slow["completion_time_s"]) == (3, 280)
    assert slow["reward"] == 3 / 152


def test_the_table_gives_the_reasons(run, files):
    status, out, err = run("plan --mean-time 12.5", *files(norms=[4, 1, 2, 1.5]))
    assert (status, err) == (0, "")
    assert "mean completion time 12.5 s (given)" in out
    fast, slow = out.split("\n\n")[1:]
    rows = [line.split() for line in fast.splitlines()[2:]]
    assert [row[-7:-2] for row in rows] == [
        ["1", "0", "600", "11", "-1.5"],
        ["2", "0", "700", "12", "-0.5"],
        ["3", "0", "800", "13", "0.5"],
        ["4", "0", "900", "14", "1.5"],
    ]
    assert [row[-2] for row in rows] == ["1.5", "3.5", "4.5", "8.5"]
    assert [row[0] == "*" for row in rows] == [False, False, True, False]
    assert slow.startswith("slow: 700 bytes, 50 FLOP/s")
    assert slow.splitlines()[4].split()[:4] == ["3", "2", "680", "28"]
    assert "depth 4: does not fit" in slow


def test_a_model_in_place_of_costs(run, tmp_path, tiny_model):
    options = ["--model", tiny_model, "--batch-size", 2, "--length", 8]
    (tmp_path / "fleet.csv").write_text(f"{HEADER}\na,1000000000,1e9\n")
    status, out, _ = run("plan --json --fleet", tmp_path / "fleet.csv", *options)
    assert status == 0
    [row] = json.loads(out)
    costs = LayerCosts.from_accounting(str(tiny_model), 2, 8)
    assert (row["depth"], row["quantized"]) == (3, 0)
    assert row["memory_bytes"] == costs.fixed_bytes + 3 * costs.bytes_per_lora_layer
    flops = costs.forward_flops + 3 * costs.flops_per_lora_layer
    assert row["completion_time_s"] == flops / 1e9


def test_a_device_that_fits_nothing_is_named_or_left_out(run, files):
    options = files(fleet=("fits,1000,100", "too-small,599,100"))
    status, out, err = run("plan --json", *options)
    assert (status, out) == (2, "")
    assert "too-small" in err
    assert "600 bytes or more" in err
    status, out, err = run("plan --json --leave-out-infeasible", *options)
    assert status == 0
    assert [row["device_id"] for row in json.loads(out)] == ["fits"]
    assert err == "fedquad: left out, fits nothing: too-small\n"
    status, out, _ = run("plan --leave-out-infeasible", *options)
    assert status == 0
    assert "depth 1 to 4: does not fit" in out


BAD = {
    "too few norms": ({"norms": [1, 1, 1]}, "4 norms, one a layer"),
    "too many norms": ({"norms": [1] * 5}, "4 norms, one a layer"),
    "negative norm": ({"norms": [1, 1, -1, 1]}, "gradient_norms[2] = -1"),
    "NaN": ({"norms": "[1, NaN, 1, 1]"}, "gradient_norms[1] = nan"),
    "infinite": ({"norms": "[1, 1, 1, Infinity]"}, "gradient_norms[3] = inf"),
    "a number beyond floats": ({"norms": f"[1, 1, 1, 1{'0' * 400}]"}, "gradient_norms[3]"),
    "a norm in words": ({"norms": ["one", 1, 1, 1]}, "gradient_norms[0] = 'one'"),
    "truth": ({"norms": [True, 1, 1, 1]}, "gradient_norms[0] = True"),
    "no list": ({"norms": {"layer 0": 1}}, "a JSON list of 4 numbers"),
    "half a list": ({"norms": "[1, 2"}, "a JSON list"),
    "empty norms": ({"norms": ""}, "a JSON list"),
    "no costs": ({"costs": "{}"}, "the fields num_layers, fixed_bytes"),
    "half of the costs": ({"costs": COSTS_JSON[:40]}, "a JSON object"),
    "negative costs": (
        {"costs": json.dumps(dataclasses.asdict(COSTS) | {"forward_flops": -1})},
        "forward_flops = -1",
    ),
    "no devices": ({"fleet": ()}, "at least one device"),
    "a column too few": ({"fleet": ("a,1000",)}, "line 2"),
    "no speed": ({"fleet": ("a,1000,0",)}, "flops_per_second in line 2"),
    "negative speed": ({"fleet": ("a,1000,-5",)}, "flops_per_second in line 2"),
    "a name twice": ({"fleet": ("a,1000,5", "a,900,6")}, "device_id in line 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(run, files, case):
    inputs, expected = BAD[case]
    status, out, err = run("plan --json", *files(**inputs))
    assert (status, out) == (2, "")
    [line] = err.strip().splitlines()
    assert line.startswith("fedquad: ")
    assert expected in line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--mean-time 0", "mean_time"),
        ("--mean-time nan", "mean_time"),
        ("--local-steps 0", "local_steps"),
        ("--reward-offset 0", "reward_offset"),
        ("--gradient-norms nowhere.json", "nowhere.json"),
    ],
)
def test_bad_options_are_one_line(run, files, options, expected):
    status, out, err = run(f"plan --json {options}", *files())
    assert (status, out) == (2, "")
    [line] = err.strip().splitlines()
    assert expected in line


def test_files_that_are_no_text(run, files, tmp_path):
    options = files(norms=[1, 1, 1, 1])
    (tmp_path / "norms.json").write_bytes("[1, 1, 1, 1]".encode("utf-16"))
    status, _, err = run("plan --json", *options)
    assert status == 2
    assert "UTF-8" in err
