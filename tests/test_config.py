from __future__ import annotations

import dataclasses
import json
import pickle
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquad import paths
from fedquad.config import (
    PROFILES,
    Assignment,
    FineTuneConfig,
    InputError,
    LayerConfig,
    get_profile,
    run_id,
    settings_of,
)
from fedquad.verify import config_of

layer_sets = st.sets(st.integers(0, 23), min_size=1).map(lambda layers: tuple(sorted(layers)))
counts = st.integers(1, 10_000)
FIELD_VALUES = {
    "task": st.sampled_from(["micro-mnli", "sst2", "mnli"]),
    "model": st.sampled_from(["embedded", "minilm", "some/model"]),
    "tuning": st.sampled_from(["lora", "full"]),
    "trainable_layers": st.none() | layer_sets,
    "num_steps": counts,
    "batch_size": counts,
    "max_length": st.integers(4, 512),
    "learning_rate": st.floats(1e-6, 1.0),
    "lora_rank": counts,
    "lora_alpha": counts,
    "train_samples": st.none() | counts,
    "eval_samples": st.none() | counts,
    "evaluate_every": counts,
    "evaluate_on": st.sampled_from(["eval", "holdout"]),
    "seed": st.integers(0, 2**31),
    "quantized_layers": st.just(()) | layer_sets,
    "activation_bits": st.sampled_from([8, 4]),
}


@st.composite
def fine_tuning(draw):
    """Any configuration: with quantized layers, if they are not below the lowest trained one."""
    values = {name: draw(strategy) for name, strategy in FIELD_VALUES.items()}
    if values["tuning"] == "lora" and values["trainable_layers"] is not None:
        lowest = values["trainable_layers"][0]
        values["quantized_layers"] = tuple(q for q in values["quantized_layers"] if q >= lowest)
    if not values["quantized_layers"]:
        values["activation_bits"] = 8
    return FineTuneConfig(**values)


configs = fine_tuning()


def test_every_field_has_a_strategy():
    assert set(FIELD_VALUES) == {field.name for field in dataclasses.fields(FineTuneConfig)}


@given(config=configs, seed=st.integers())
def test_the_id_does_not_depend_on_the_order_of_the_settings(config, seed):
    settings = settings_of(config)
    items = list(settings.items())
    random.Random(seed).shuffle(items)
    assert run_id(dict(items)) == run_id(settings)
    assert run_id(json.loads(json.dumps(settings))) == run_id(settings)


@given(config=configs, data=st.data())
def test_the_id_changes_with_each_field_and_only_then(config, data):
    same = dataclasses.replace(config)
    assert run_id(settings_of(same)) == run_id(settings_of(config))
    for field, values in FIELD_VALUES.items():
        value = data.draw(values, label=field)
        try:
            other = dataclasses.replace(config, **{field: value})
        except InputError:
            continue  # does not go together with the quantized layers
        changed = run_id(settings_of(other)) != run_id(settings_of(config))
        assert changed == (value != getattr(config, field))


def test_the_id_is_the_same_in_another_process():
    code = (
        "from fedquad.config import *;"
        "print(run_id(settings_of(FineTuneConfig(trainable_layers=(0, 5)))))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = run_id(settings_of(FineTuneConfig(trainable_layers=(0, 5))))
    assert printed.stdout.strip() == expected, printed.stderr
    assert len(expected) == 16
    assert int(expected, 16) >= 0


def test_the_id_distinguishes_kinds_of_experiment():
    @dataclasses.dataclass(frozen=True)
    class Other:
        seed: int = 0

    @dataclasses.dataclass(frozen=True)
    class Another:
        seed: int = 0

    assert run_id(settings_of(Other())) != run_id(settings_of(Another()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tuning", "adapters"),
        ("num_steps", 0),
        ("num_steps", 2.0),
        ("num_steps", True),
        ("num_steps", "10"),
        ("batch_size", -1),
        ("max_length", 3),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "1e-3"),
        ("lora_rank", 0),
        ("lora_alpha", 0),
        ("train_samples", 0),
        ("eval_samples", 0),
        ("evaluate_every", 0),
        ("evaluate_on", "test"),
        ("seed", -1),
        ("trainable_layers", ()),
        ("trainable_layers", [0, 1]),
        ("trainable_layers", (1, 0)),
        ("trainable_layers", (0, 0)),
        ("trainable_layers", (-1, 0)),
        ("trainable_layers", (0.0,)),
        ("quantized_layers", [0, 1]),
        ("quantized_layers", (1, 0)),
        ("quantized_layers", (0, 0)),
        ("quantized_layers", (-1,)),
        ("quantized_layers", None),
        ("activation_bits", 2),
        ("activation_bits", 8.0),
        ("activation_bits", "8"),
        ("activation_bits", 4),  # of nothing
    ],
)
def test_a_bad_setting_names_the_field_the_value_and_what_is_accepted(field, value):
    with pytest.raises(InputError, match=field) as error:
        FineTuneConfig(**{field: value})
    assert error.value.field == field
    assert repr(value) in str(error.value)
    assert error.value.accepted in str(error.value)


def test_layers_below_the_lowest_trained_one_have_nothing_to_quantize():
    with pytest.raises(InputError, match=r"quantized_layers = \(7, 8\) .* from 8") as error:
        FineTuneConfig(trainable_layers=(8, 9, 10, 11), quantized_layers=(7, 8))
    assert error.value.field == "quantized_layers"
    FineTuneConfig(trainable_layers=(8, 11), quantized_layers=(9,))
    for tuning in ("lora", "full"):
        FineTuneConfig(tuning=tuning, quantized_layers=(0, 1), activation_bits=4)


RECORDS = sorted((paths.package_data() / "runs" / "reference").glob("*/config.json"))


def test_records_made_before_quantization_keep_their_ids():
    """Settings that were added later are no part of an id while they have their default."""
    texts = {path: path.read_text() for path in RECORDS}
    central = [path for path in RECORDS if '"FineTuneConfig"' in texts[path]]
    old = [path for path in central if '"quantized_layers"' not in texts[path]]
    assert len(old) >= 50
    for path in old:
        recorded = json.loads(path.read_text())["settings"]
        assert path.parent.name.endswith(run_id(recorded))
        again = config_of(recorded)
        assert (again.quantized_layers, again.activation_bits) == ((), 8)
        named = {name: recorded[name] for name in ("task", "model")}
        assert settings_of(again) | named == recorded


def test_what_was_added_later_is_in_the_settings_as_soon_as_it_is_used():
    plain = settings_of(FineTuneConfig())
    assert not {"quantized_layers", "activation_bits"} & set(plain)
    quantized = settings_of(FineTuneConfig(quantized_layers=(0, 1)))
    assert quantized == plain | {"quantized_layers": [0, 1]}
    four = settings_of(FineTuneConfig(quantized_layers=(0, 1), activation_bits=4))
    assert four == quantized | {"activation_bits": 4}


@given(num_layers=st.integers(1, 24), data=st.data())
def test_a_layer_config_names_the_layers_of_section_3d(num_layers, data):
    depth = data.draw(st.integers(1, num_layers))
    quantized = data.draw(st.integers(0, depth - 1))
    config = LayerConfig(depth, quantized)
    trained, stored_small = config.trainable_layers(num_layers), config.quantized_layers(num_layers)
    assert len(trained) == depth
    assert len(stored_small) == quantized
    assert trained[-1] == num_layers - 1
    assert trained == tuple(range(trained[0], num_layers))
    assert stored_small == trained[:quantized]
    assert num_layers - 1 not in stored_small
    assignment = Assignment.from_layer_config(config, num_layers, lora_rank=8)
    assert assignment.active_layers == tuple(range(num_layers))
    assert (assignment.trainable_layers, assignment.quantized_layers) == (trained, stored_small)
    assert assignment.lora_rank == 8


@pytest.mark.parametrize(
    ("depth", "quantized", "field"),
    [
        (0, 0, "depth"),
        (-1, 0, "depth"),
        (1.0, 0, "depth"),
        (3, 3, "quantized"),
        (3, -1, "quantized"),
    ],
)
def test_a_bad_layer_config_is_refused(depth, quantized, field):
    with pytest.raises(InputError, match=field):
        LayerConfig(depth, quantized)


def test_a_depth_above_the_models_is_refused():
    with pytest.raises(InputError, match="from 1 to 12"):
        LayerConfig(13).trainable_layers(12)


GOOD = {"num_layers": 4, "active_layers": (0, 2, 3), "trainable_layers": (2, 3)}


def test_an_assignment_that_quantizes_a_frozen_layer_above_the_lowest_trained_one_is_fine():
    Assignment(
        num_layers=4, active_layers=(0, 1, 2, 3), trainable_layers=(1,), quantized_layers=(2,)
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 0),
        ("num_layers", 3),
        ("lora_rank", 0),
        ("active_layers", (0, 2, 4)),
        ("active_layers", (0, 2)),
        ("trainable_layers", (1, 2)),
        ("trainable_layers", (3, 2)),
        ("trainable_layers", [2, 3]),
        ("quantized_layers", (1,)),
        ("quantized_layers", (0,)),
    ],
)
def test_a_bad_assignment_is_refused(field, value):
    with pytest.raises(InputError):
        Assignment(**{**GOOD, field: value})


def test_configs_are_frozen_and_hashable():
    config = FineTuneConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert len({config, FineTuneConfig(), FineTuneConfig(seed=1)}) == 2


def test_errors_cross_process_boundaries():
    error = InputError("depth", 13, "an integer from 1 to 12")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.field, copy.value, copy.accepted) == ("depth", 13, "an integer from 1 to 12")


def test_profiles_are_known_by_name_and_make_valid_runs():
    for name, profile in PROFILES.items():
        assert get_profile(name) is profile
        assert profile.name == name
        for task in profile.tasks:
            FineTuneConfig(
                task=task,
                model=profile.model,
                num_steps=profile.num_steps,
                batch_size=profile.batch_size,
                max_length=profile.max_length,
                learning_rate=profile.learning_rate,
                train_samples=profile.train_samples,
                eval_samples=profile.eval_samples,
                seed=profile.seeds[0],
            )
    assert len(PROFILES["reference"].seeds) >= 3
    assert PROFILES["reference"].committed
    assert not PROFILES["embedded"].committed


def test_a_profile_takes_another_task_and_other_seeds():
    profile = get_profile("glue", task="mnli", seeds=[4])
    assert (profile.tasks, profile.seeds) == (("mnli",), (4,))
    assert profile.model == PROFILES["glue"].model
    for seeds in ([], [0, 0], [-1], ["0"]):
        with pytest.raises(InputError, match="seeds"):
            get_profile("glue", seeds=seeds)


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(InputError, match="smoke, embedded, reference, glue, paper"):
        get_profile("huge")
