import json

import pytest

SMALL = {
    "bert": {"type_vocab_size": 2, "max_position_embeddings": 40, "pad_token_id": 0},
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": 42, "pad_token_id": 1},
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

    def write(family="bert", dropout=0.0, num_layers=4):
        config = {
            "model_type": family,
            "vocab_size": 101,
            "hidden_size": 32,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            **SMALL[family],
        }
        folder = tmp_path / f"{family}-{dropout}-{num_layers}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return write
