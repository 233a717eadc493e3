import pytest
import torch

from fedquad.config import InputError
from fedquad.cost import latency
from fedquad.cost.latency import PHASES, StepLatency, measure_steps

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
