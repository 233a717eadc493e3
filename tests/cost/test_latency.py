import pytest
import torch

from fedquad.config import InputError
from fedquad.cost import latency
from fedquad.cost.latency import PHASES, StepLatency, StepSetting, measure_steps
from fedquad.cost.random_model import build_model
from fedquad.cost.step_setting import SettableModel
from fedquad.model.backbone import architecture, find_layers

SETTINGS = [("full", None), ("lora", None), ("lora", (2, 3)), ("lora", (0,))]


def test_every_setting_is_timed(small_model):
    before = torch.get_rng_state()
    records = measure_steps(
        small_model("roberta", dropout=0.1),
        SETTINGS,
        batch_size=2,
        length=8,
        repeats=3,
        warmup=1,
    )
    assert [record.tuning for record in records] == ["full", "lora", "lora", "lora"]
    assert [record.trainable_layers for record in records] == [
        None,
        (0, 1, 2, 3),
        (2, 3),
        (0,),
    ]
    for record in records:
        phases = zip(record.forward_s, record.backward_s, record.optimizer_s, strict=True)
        assert [sum(parts) for parts in phases] == pytest.approx(list(record.step_s))
        assert len(record.step_s) == 3
        assert min(record.forward_s + record.backward_s + record.optimizer_s) > 0
        assert record.num_threads == torch.get_num_threads()
        assert record.torch_device == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


def test_quantized_and_checkpointed_steps_are_timed(small_model):
    settings = [
        ("lora", None),
        ("lora", (1, 2, 3), (1, 2), False),  # as it is stored: the fields in their order
        StepSetting("lora", None, quantized_layers=(0, 1, 2), path="hooks"),
        StepSetting("lora", None, quantized_layers=(0,), path="hooks", bits=4),
        StepSetting("lora", (2, 3), checkpointing=True),
        StepSetting("full", None, checkpointing=(0, 1)),
    ]
    records = measure_steps(small_model(), settings, batch_size=1, length=8, repeats=1, warmup=0)
    assert [record.quantized_layers for record in records] == [(), (1, 2), (0, 1, 2), (0,), (), ()]
    assert [record.checkpointing for record in records] == [(), (), (), (), (2, 3), (0, 1)]
    assert [record.bits for record in records] == [8, 8, 8, 4, 8, 8]
    assert records[0].trainable_layers == (0, 1, 2, 3)
    assert all(len(record.step_s) == 1 for record in records)


def test_a_model_is_switched_between_settings_and_left_as_it_was(small_model, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda forward, **options: compiled.append(options) or forward
    )
    config = architecture(small_model())
    model = build_model(config, tuning="lora", lora_rank=4, attention="eager")
    layers = find_layers(model)
    before = [dict(layer.__dict__) for layer in layers]
    first = StepSetting("lora", None, (0, 1), checkpointing=(3,), compiled=True).checked(4)
    second = StepSetting("lora", (2, 3), (2,), checkpointing=(3,), compiled=True).checked(4)
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.tensor([0, 1])}
    settable = SettableModel(model, first)
    assert compiled == [{"dynamic": False}] * 4
    settable.loss(batch).backward()
    settable.select(second)
    assert not any(weight.requires_grad for weight in layers[1].parameters())
    settable.loss(batch).backward()
    with pytest.raises(InputError, match="one of the variant"):
        settable.select(StepSetting("lora", None).checked(4))
    settable.close()
    after = [dict(layer.__dict__) for layer in layers]
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert [sorted(each) for each in after] == [sorted(each) for each in before]
    assert not any(each[name] for each in after for name in hooks)


def test_settings_take_turns(small_model, monkeypatch):
    """A clock that ticks once a reading: four readings a step, settings side by side."""
    readings = iter(range(10_000))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: float(next(readings)) ** 2)
    first, second = measure_steps(
        small_model(), SETTINGS[:2], batch_size=1, length=8, repeats=3, warmup=2
    )
    starts = [4 * 2 * 2 + 4 * turn for turn in range(6)]  # two settings were warmed up twice
    expected = [(start + 3) ** 2 - start**2 for start in starts]
    assert list(first.step_s) == expected[0::2]
    assert list(second.step_s) == expected[1::2]


def test_quantiles_and_summary():
    values = (4.0, 1.0, 2.0, 3.0, 5.0)
    record = StepLatency(
        tuning="full",
        trainable_layers=None,
        forward_s=values,
        backward_s=values,
        optimizer_s=values,
        step_s=tuple(3 * value for value in values),
        torch_device="cpu",
        num_threads=1,
    )
    assert record.quantile("step") == 9
    summary = record.summary()
    assert (summary["forward_s_q25"], summary["forward_s"], summary["forward_s_q75"]) == (2, 3, 4)
    assert set(summary) == {f"{p}_s{q}" for p in PHASES for q in ("", "_q25", "_q75")}
    with pytest.raises(InputError, match="forward, backward, optimizer, step"):
        record.quantile("total")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": []}, "at least one"),
        ({"settings": [("lora", (4,))]}, "below 4"),
        ({"settings": [("full", (1,))]}, "trains every weight"),
        ({"settings": [("lora", None, (3,))]}, "the output layer 3 is never quantized"),
        ({"settings": [("lora", (2, 3), (1,))]}, "layers from 2"),
        ({"settings": [("lora", None, (1,), True)]}, "none of the quantized layers"),
        ({"settings": [StepSetting("lora", None, (1,), path="magic")]}, "auto, hooks, fused"),
        ({"settings": [StepSetting("lora", None, compiled="yes")]}, "True or False"),
        ({"settings": [StepSetting("lora", None, (1,), bits=3)]}, "bits = 3"),
        ({"repeats": 0}, "repeats = 0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"length": 41}, "from 1 to 40"),
        ({"torch_device": "abacus"}, "cpu, or cuda"),
        ({"torch_device": "cuda:99"}, "cuda where a GPU is found"),
    ],
)
def test_bad_input_is_refused(arguments, message, small_model):
    with pytest.raises(InputError, match=message):
        measure_steps(
            small_model(), **{"settings": SETTINGS, "batch_size": 1, "length": 8, **arguments}
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_on_a_gpu(small_model):
    (record,) = measure_steps(
        small_model(), [("lora", None)], length=16, repeats=2, torch_device="cuda"
    )
    assert record.torch_device == torch.cuda.get_device_name()
    assert min(record.step_s) > 0
