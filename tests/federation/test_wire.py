from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_host import LAYOUT, NUM_LAYERS, RANK, fresh_adapter, job

from fedquad.config import Assignment, InputError
from fedquad.federation import messages
from fedquad.federation.jobs import DeviceJob, EvalBatch, Failure, HostSpec
from fedquad.federation.wire import MAX_PAYLOAD_BYTES, WireError, decode, encode
from fedquad.methods.method import LocalUpdate
from fedquad.model.adapter import Adapter

layer_sets = st.sets(st.integers(0, NUM_LAYERS - 1), min_size=1).map(lambda s: tuple(sorted(s)))
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def jobs(draw) -> DeviceJob:
    active = draw(layer_sets)
    trained = draw(st.sets(st.sampled_from(active), min_size=1).map(sorted))
    above = [layer for layer in active if layer >= trained[0]]
    assignment = Assignment(
        num_layers=NUM_LAYERS,
        active_layers=active,
        trainable_layers=tuple(trained),
        quantized_layers=tuple(sorted(draw(st.sets(st.sampled_from(above))))),
        lora_rank=draw(st.integers(1, RANK)),
    )
    device, round_idx = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**4))
    return DeviceJob(device=device, round_idx=round_idx, assignment=assignment)


@st.composite
def updates(draw) -> tuple[DeviceJob, LocalUpdate]:
    wanted = draw(jobs())
    trained = wanted.assignment.trainable_layers
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    adapter = fresh_adapter().layers(trained)
    adapter = adapter.truncate_rank(draw(st.integers(1, wanted.assignment.lora_rank)))
    state = {n: torch.randn(t.shape, generator=generator) for n, t in adapter.state().items()}
    state["head.classifier.weight"][0, 0] = draw(st.sampled_from([-0.0, 1e-45, 3.4e38]))
    update = LocalUpdate(
        device=wanted.device,
        assignment=wanted.assignment,
        adapter=Adapter.from_state(state, LAYOUT),
        num_samples=draw(st.integers(1, 2**40)),
        gradient_norms={layer: abs(draw(finite)) for layer in trained},
        train_loss=draw(finite),
    )
    return wanted, update


def same_bits(one: Adapter, other: Adapter) -> bool:
    first, second = one.state(), other.state()
    return one.layout == other.layout and [
        (name, tensor.dtype, tensor.numpy().tobytes()) for name, tensor in first.items()
    ] == [(name, tensor.dtype, tensor.numpy().tobytes()) for name, tensor in second.items()]


def an_update(**changes) -> LocalUpdate:
    update = LocalUpdate(
        device=3,
        assignment=job(3).assignment,
        adapter=fresh_adapter().layers((1, 2)),
        num_samples=9,
        gradient_norms={1: 0.5, 2: 0.25},
        train_loss=1.5,
    )
    return replace(update, **changes)


def received(update: LocalUpdate, wanted: DeviceJob | None = None, round_idx: int = 0):
    message = decode(messages.encode_update(update, round_idx))
    return messages.decode_update(message, wanted or job(3), fresh_adapter())


def with_tensor(name: str, tensor: torch.Tensor | None) -> Adapter:
    state = fresh_adapter().layers((1, 2)).state()
    state[name] = tensor
    return Adapter.from_state({n: t for n, t in state.items() if t is not None}, LAYOUT)


@given(updates())
@settings(deadline=None, max_examples=60)
def test_an_update_arrives_as_it_was_sent(sent):
    wanted, update = sent
    message = decode(messages.encode_update(update, wanted.round_idx))
    back = messages.decode_update(message, wanted, fresh_adapter())
    assert same_bits(back.adapter, update.adapter)
    assert replace(back, adapter=None) == replace(update, adapter=None)
    assert list(back.gradient_norms) == list(update.gradient_norms)


@given(jobs(), st.sampled_from(["fine_tune", "probe"]))
@settings(deadline=None)
def test_a_job_arrives_as_it_was_sent(wanted, kind):
    message = decode(messages.encode_job(kind, wanted))
    assert message.kind == kind
    assert messages.decode_job(message) == wanted


def test_what_a_worker_starts_from_arrives_as_it_was_sent():
    spec = HostSpec(factory="toy_host:make_host", arguments={"rate": 0.1, "names": ["a", None]})
    assert messages.decode_spec(decode(messages.encode_spec(spec))) == spec
    adapter, num_batches = messages.decode_ready(decode(messages.encode_ready(fresh_adapter(), 12)))
    assert same_bits(adapter, fresh_adapter())
    assert num_batches == 12
    message = decode(messages.encode_adapter(fresh_adapter()))
    assert same_bits(messages.decode_adapter(message, fresh_adapter()), fresh_adapter())


def test_probes_failures_and_evaluations_arrive_as_they_were_sent():
    squares = np.array([0.0, 1e-300, 7.5])
    message = decode(messages.encode_squares(squares, job(4)))
    assert messages.decode_squares(message, job(4)).tolist() == squares.tolist()
    failure = Failure(device=4, reason="training loss nan")
    message = decode(messages.encode_failure(failure, 0))
    assert messages.decode_failure(message, job(4)) == failure
    part = EvalBatch(
        rows=np.array([4, 0]), correct=np.array([True, False]), losses=np.array([0.1, math.inf])
    )
    (back,) = messages.decode_eval(decode(messages.encode_eval([part])), 1)
    for name in ("rows", "correct", "losses"):
        assert getattr(back, name).dtype == getattr(part, name).dtype
        assert getattr(back, name).tolist() == getattr(part, name).tolist()


def test_an_error_arrives_with_its_text():
    def raised(error: Exception) -> Exception:
        try:
            raise error
        except Exception as caught:
            return messages.decode_error(decode(messages.encode_error(caught)))

    error = InputError("devices", (1, 2), "one device")
    back = raised(error)
    assert type(back) is InputError
    assert str(back) == str(error)
    assert (back.field, back.accepted) == (error.field, error.accepted)
    back = raised(KeyError("weight"))
    assert str(back) == "KeyError: 'weight'"
    assert "test_wire.py" in back.__notes__[0]  # where it was raised


PAYLOADS = [
    messages.encode_update(an_update(), 0),
    messages.encode_job("fine_tune", job(3)),
    messages.encode_ready(fresh_adapter(), 12),
    messages.encode_adapter(fresh_adapter()),
    messages.encode_squares(np.array([0.0, 1.0, 7.5]), job(3)),
    messages.encode_failure(Failure(device=3, reason="nan"), 0),
    messages.encode_spec(HostSpec(factory="a:b", arguments={"c": 1})),
    messages.encode_eval(
        [EvalBatch(rows=np.array([1]), correct=np.array([True]), losses=np.array([0.5]))]
    ),
]


def use(payload: bytes) -> None:
    """Take a payload for what it says that it is, and require that all in it can be used."""
    message = decode(payload)
    if message.kind == "update":
        update = messages.decode_update(message, job(3), fresh_adapter())
        assert all(tensor.isfinite().all() for tensor in update.adapter.state().values())
        assert set(update.adapter.lora) <= {1, 2}
        assert set(update.gradient_norms) <= {1, 2}
        assert math.isfinite(update.train_loss)
        assert update.num_samples >= 1
        assert 1 <= update.adapter.rank <= RANK
    elif message.kind == "ready":
        messages.decode_ready(message)
    elif message.kind == "broadcast":
        adapter = messages.decode_adapter(message, fresh_adapter())
        assert all(tensor.isfinite().all() for tensor in adapter.state().values())
    elif message.kind == "squares":
        assert np.isfinite(messages.decode_squares(message, job(3))).all()
    elif message.kind == "failure":
        assert messages.decode_failure(message, job(3)).device == 3
    elif message.kind == "start":
        messages.decode_spec(message)
    elif message.kind == "evaluation":
        messages.decode_eval(message, 1)
    else:
        messages.decode_job(message)


@given(st.sampled_from(PAYLOADS), st.data())
@settings(deadline=None, max_examples=400)
def test_damaged_bytes_are_refused_or_still_a_message(payload, data):
    damaged = bytearray(payload)
    # Half of the damage goes where lengths, names and shapes are, not numbers.
    places = st.integers(0, len(payload) - 1) | st.integers(0, min(700, len(payload) - 1))
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(payload)) | st.just(len(payload)))]
    with suppress(WireError):
        use(bytes(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(payload):
    with pytest.raises(WireError):
        decode(len(payload).to_bytes(8, "little") + payload)


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "payload"),
        (b"\xff" * 8, "header length"),
        ((2**24 + 1).to_bytes(8, "little") + bytes(2**24 + 1), "header length"),
        (len(deep := b"[" * 200_000).to_bytes(8, "little") + deep, "header"),
        (encode("update", {}) + b"no safetensors", "tensors"),
        (encode("update", {}), "device"),
        (encode("update", {}, {"x": torch.zeros(1)}).replace(b'["x"]', b'["y"]'), "tensors"),
        (encode("update", {}, {"x": torch.zeros(1)}).replace(b'["x"]', b"[]   "), "tensors"),
    ],
)
def test_what_is_no_payload_is_named(payload, field):
    with pytest.raises(WireError) as refused:
        messages.decode_update(decode(payload), job(3), fresh_adapter())
    assert refused.value.field == field


def test_a_payload_above_the_limit_is_refused():
    class Long(bytes):
        def __len__(self):
            return MAX_PAYLOAD_BYTES + 1

    with pytest.raises(WireError, match=f"payload = '{MAX_PAYLOAD_BYTES + 1} bytes'"):
        decode(Long(b"12345678"))


A, B, HEAD = "layers.1.query.lora_A", "layers.1.query.lora_B", "head.classifier.weight"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"device": 4}, "device", "4"),
        ({"num_samples": 0}, "num_samples", "0"),
        ({"train_loss": math.nan}, "train_loss", "nan"),
        ({"gradient_norms": {1: math.inf}}, "gradient norm of layer 1", "inf"),
        ({"gradient_norms": {1: -1.0}}, "gradient norm of layer 1", "-1.0"),
        ({"gradient_norms": {0: 1.0}}, "layer of a gradient norm", "0"),
        ({"adapter": fresh_adapter()}, "layers", "(0, 1, 2)"),
        ({"adapter": fresh_adapter().layers(())}, "layers", "()"),
        ({"adapter": with_tensor(A, torch.full((4, 40), math.nan))}, A, "nan"),
        ({"adapter": with_tensor(HEAD, torch.full((3, 40), -math.inf))}, HEAD, "-inf"),
        ({"adapter": with_tensor(A, torch.zeros(4, 41))}, A, "(4, 41)"),
        ({"adapter": with_tensor(B, torch.zeros(40, 3))}, "adapter rank", "[3, 4]"),
        ({"adapter": with_tensor(A, torch.zeros(4, 40, 1))}, A, "torch.float32, 3 dimensions"),
        ({"adapter": with_tensor(A, torch.zeros(4, 40).half())}, A, "torch.float16, 2 dimensions"),
        ({"adapter": with_tensor(HEAD, None)}, "adapter tensor", HEAD),
        ({"adapter": with_tensor("head.other", torch.zeros(1))}, "adapter tensor", "head.other"),
    ],
    ids=str,
)
def test_an_update_that_cannot_be_used_is_refused(changes, field, value):
    with pytest.raises(WireError) as refused:
        received(an_update(**changes))
    assert refused.value.field == field
    assert refused.value.value.strip("'") == value


def test_an_update_of_another_round_is_refused():
    with pytest.raises(WireError, match="round_idx = 1 "):
        received(an_update(), round_idx=1)


def test_a_rank_above_the_assigned_one_is_refused_and_a_lower_one_is_not():
    wanted = replace(job(3), assignment=replace(job(3).assignment, lora_rank=2))
    adapter = fresh_adapter().layers((1, 2))
    for rank in (1, 2):
        update = an_update(adapter=adapter.truncate_rank(rank))
        assert received(update, wanted).lora_rank == rank
    with pytest.raises(WireError, match=r"adapter rank = 3 .* from 1 to 2"):
        received(an_update(adapter=adapter.truncate_rank(3)), wanted)


@pytest.mark.parametrize(
    ("adapter", "field"),
    [
        (fresh_adapter().layers((0, 1)), "layers"),
        (fresh_adapter().truncate_rank(3), "adapter rank"),
        (replace(fresh_adapter(), head={"classifier.weight": torch.full((3, 40), math.nan)}), HEAD),
    ],
)
def test_a_global_adapter_that_cannot_be_used_is_refused(adapter, field):
    message = decode(messages.encode_adapter(adapter))
    with pytest.raises(WireError) as refused:
        messages.decode_adapter(message, fresh_adapter())
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainable_layers", [0, 3]),
        ("trainable_layers", [2, 1]),
        ("trainable_layers", [True]),
        ("trainable_layers", "12"),
        ("quantized_layers", [0]),
        ("lora_rank", 0),
        ("lora_rank", 2.0),
        ("num_layers", 10**30),
    ],
)
def test_an_assignment_that_cannot_be_used_is_refused(name, value):
    payload = messages.encode_job("fine_tune", job(3))
    header = json.loads(payload[8:])
    del header["tensors"]
    header["assignment"][name] = value
    with pytest.raises(WireError) as refused:
        messages.decode_job(decode(encode(header.pop("kind"), header)))
    assert refused.value.field == name


@pytest.mark.parametrize(
    ("squares", "words"),
    [
        (np.array([1.0, 2.0]), "shape"),
        (np.array([1.0, math.nan, 0.0]), "finite"),
        (np.array([1.0, -2.0, 0.0]), "finite"),
        (np.zeros(3, dtype=np.float32), "float64"),
    ],
)
def test_a_probe_that_cannot_be_used_is_refused(squares, words):
    message = decode(messages.encode_squares(squares, job(4)))
    with pytest.raises(WireError, match=words):
        messages.decode_squares(message, job(4))


def test_evaluations_that_cannot_be_used_are_refused():
    rows, ones = torch.tensor([1]), torch.ones(1, dtype=torch.uint8)
    good = {"0.rows": rows, "0.correct": ones, "0.losses": torch.zeros(1, dtype=torch.float64)}
    bad = [
        {"0.rows": -rows},
        {"0.rows": torch.tensor([1, 2])},
        {"0.rows": rows.int()},
        {"0.correct": 2 * ones},
        {"0.losses": torch.zeros(1)},
        {"0.losses": torch.zeros(1, 1, dtype=torch.float64)},
    ]
    for change in bad:
        with pytest.raises(WireError, match=next(iter(change))):
            messages.decode_eval(decode(encode("evaluation", {"parts": 1}, good | change)), 1)
    with pytest.raises(WireError, match="parts = 2"):
        messages.decode_eval(decode(encode("evaluation", {"parts": 2}, good)), 1)
