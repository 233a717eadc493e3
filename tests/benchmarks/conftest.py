import json

import pytest

from fedquad.benchmarks.plan import Plan

FAMILIES = {
    "bert": {"type_vocab_size": 2, "max_position_embeddings": 40, "pad_token_id": 0},
    "deberta-v2": {
        "type_vocab_size": 0,
        "max_position_embeddings": 40,
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
    },
}


@pytest.fixture
def small_model(tmp_path):
    """Write the config.json of a small encoder to a folder and return its path."""

    def write(family="bert"):
        config = {
            "model_type": family,
            "vocab_size": 101,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            **FAMILIES[family],
        }
        folder = tmp_path / family
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return write


@pytest.fixture
def small_plan(small_model):
    """A plan that takes a second."""

    def make(family="bert", **changes):
        settings = {
            "torch_device": "cpu",
            "sizes": ((small_model(family), 16),),
            "batch_size": 2,
            "dtypes": ("float32",),
            "modes": ("eager",),
            "attentions": ("eager",),
            "methods": ("none", "checkpointing", "hooks"),
            "repeats": 2,
            "profile": False,
        }
        return Plan(**settings | changes)

    return make


@pytest.fixture
def machine():
    """A machine, as far as a record and a report look at it."""
    return {
        "device": "CPU",
        "gpu": None,
        "torch": "2.13.0",
        "triton": "3.7.1",
        "transformers": "5.23.0",
        "threads": 1,
        "sources": "0123456789abcdef",
        "commit": "f" * 40,
    }
