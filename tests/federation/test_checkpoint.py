from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_host import fresh_adapter

from fedquad.config import InputError
from fedquad.federation.checkpoint import Checkpoint

ADAPTER = fresh_adapter()
CHECKPOINT = Checkpoint(
    adapter=ADAPTER,
    round_idx=3,
    sim_time_s=0.1 + 0.2,
    mean_completion_time_s=1 / 3,
    gradient_norms={2: 1e-300, 0: 0.1},
    method={"kept_ranks": {"1": 3}},
)
ENCODED = CHECKPOINT.encode()


def test_it_comes_back_to_the_last_bit():
    again = Checkpoint.decode(ENCODED, ADAPTER)
    assert replace(again, adapter=ADAPTER) == CHECKPOINT
    state = again.adapter.state()
    assert list(again.adapter.lora) == list(ADAPTER.lora)
    assert all(torch.equal(tensor, state[name]) for name, tensor in ADAPTER.state().items())
    assert again.encode() == ENCODED


def test_a_run_without_rounds_has_one_too():
    start = Checkpoint(adapter=ADAPTER)
    again = Checkpoint.decode(start.encode(), ADAPTER)
    assert (again.round_idx, again.mean_completion_time_s, again.gradient_norms) == (0, None, {})


@given(position=st.integers(0, len(ENCODED) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_seen(position, bit):
    damaged = bytearray(ENCODED)
    damaged[position] ^= 1 << bit
    with pytest.raises(InputError, match="checkpoint"):
        Checkpoint.decode(bytes(damaged), ADAPTER)


@given(st.integers(0, len(ENCODED) - 1))
def test_a_part_of_it_is_seen(length):
    with pytest.raises(InputError, match="checkpoint"):
        Checkpoint.decode(ENCODED[:length], ADAPTER)


def test_that_of_another_model_or_of_numbers_that_are_none_is_refused():
    small = replace(ADAPTER, lora={layer: ADAPTER.lora[layer] for layer in (0, 1)})
    with pytest.raises(InputError, match="layers"):
        Checkpoint.decode(replace(CHECKPOINT, adapter=small).encode(), ADAPTER)
    with pytest.raises(InputError, match="rank"):
        Checkpoint.decode(replace(CHECKPOINT, adapter=ADAPTER.truncate_rank(2)).encode(), ADAPTER)
    broken = replace(ADAPTER, head={n: t * float("nan") for n, t in ADAPTER.head.items()})
    with pytest.raises(InputError, match="finite"):
        Checkpoint.decode(replace(CHECKPOINT, adapter=broken).encode(), ADAPTER)
