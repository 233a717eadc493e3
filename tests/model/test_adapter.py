from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load, load_file, save, save_file

from fedquad.config import InputError
from fedquad.model.adapter import Adapter
from fedquad.model.backbone import load_backbone
from fedquad.model.lora import attach_lora, head_tensors, lora_tensors

# peft 0.21 asks transformers 5.23 for an attribute by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NAMES = ("bert", "roberta", "deberta", "distilbert", "modernbert", "gpt2", "llama")
HEAD = {"deberta": ("pooler", "classifier"), "distilbert": ("pre_classifier", "classifier")}


def make_trained(make_model, name, seed=0, rank=4):
    """A base model and a copy of it with LoRA whose tensors and head are all random."""
    base = make_model(name)
    model = attach_lora(
        copy.deepcopy(base), rank=rank, alpha=8, fresh_modules=HEAD.get(name, ())
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    weights = [w for ws in lora_tensors(model).values() for w in ws.values()]
    with torch.no_grad():
        for weight in (*weights, *head_tensors(model).values()):
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return base, model


def logits_of(model, batch):
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def same(first: Adapter, second: Adapter) -> bool:
    one, two = first.state(), second.state()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_what_is_saved_and_computes_the_same(name, make_model, batch, tmp_path):
    base, model = make_trained(make_model, name)
    adapter = Adapter.from_model(model)
    adapter.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    expected = logits_of(model, batch)
    assert not torch.allclose(expected, logits_of(base, batch))
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(logits_of(loaded, batch), expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_peft_saves_is_read_and_written_again_alike(name, make_model, tmp_path):
    _, model = make_trained(make_model, name)
    adapter = Adapter.from_model(model)
    model.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
    from_peft = Adapter.load(tmp_path / "peft")
    assert same(from_peft, adapter)
    assert from_peft.layout == adapter.layout
    adapter.save(tmp_path / "ours")
    weights = [load_file(tmp_path / d / "adapter_model.safetensors") for d in ("peft", "ours")]
    assert weights[0].keys() == weights[1].keys()
    again = Adapter.load(tmp_path / "ours")
    assert same(again, adapter)
    assert again.layout == adapter.layout


def test_a_classifier_of_which_part_is_fresh_is_trained_and_saved_whole(
    make_model, batch, tmp_path
):
    base = make_model("roberta")
    model = attach_lora(copy.deepcopy(base), fresh_modules=("classifier.out_proj",))
    adapter = Adapter.from_model(model)
    assert adapter.layout.head_modules == ("classifier",)
    assert "classifier.dense.weight" in adapter.head
    adapter.save(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(logits_of(loaded, batch), logits_of(model, batch))


def test_the_base_model_is_stated_by_its_name(checkpoint, tmp_path):
    folder = str(checkpoint("bert"))
    backbone = load_backbone(folder, num_labels=3, seed=0)
    Adapter.from_model(attach_lora(backbone.model, fresh_modules=backbone.fresh_modules)).save(
        tmp_path
    )
    assert Adapter.load(tmp_path).layout.base_model == backbone.name == folder
    assert Adapter.load(tmp_path).layout.head_modules == ("bert.pooler", "classifier")


def test_it_is_a_copy_that_goes_back_into_a_model(make_model, batch):
    _, model = make_trained(make_model, "bert")
    adapter = Adapter.from_model(model)
    expected = logits_of(model, batch)
    _, other = make_trained(make_model, "bert", seed=1)
    assert not torch.allclose(logits_of(other, batch), expected)
    adapter.load_into(other)
    assert torch.equal(logits_of(other, batch), expected)
    with torch.no_grad():
        lora_tensors(model)[0]["attention.self.query.lora_A"].zero_()
    assert adapter.lora[0]["attention.self.query.lora_A"].abs().sum() > 0


def test_a_slice_of_layers_writes_those_and_leaves_the_rest(make_model):
    _, model = make_trained(make_model, "bert")
    adapter = Adapter.from_model(model)
    top = adapter.layers((1, 2))
    assert list(top.lora) == [1, 2]
    _, other = make_trained(make_model, "bert", seed=1)
    before = Adapter.from_model(other)
    top.load_into(other)
    after = Adapter.from_model(other)
    assert same(after.layers((1, 2)), top)
    assert same(Adapter(after.lora, before.head, before.layout).layers([0]), before.layers([0]))
    with pytest.raises(InputError, match="layers"):
        adapter.layers((2, 3))


@pytest.mark.parametrize("name", ["roberta", "modernbert"])
def test_a_slice_saved_is_an_adapter_to_peft(name, make_model, batch, tmp_path):
    base, model = make_trained(make_model, name)
    Adapter.from_model(model).layers([2]).save(tmp_path)
    for layer in (0, 1):
        for key, weight in lora_tensors(model)[layer].items():
            if key.endswith("B"):
                torch.nn.init.zeros_(weight)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(logits_of(loaded, batch), logits_of(model, batch))
    assert list(Adapter.load(tmp_path).lora) == [2]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_lower_rank_keeps_first_rows_and_columns_and_the_scaling(
    name, make_model, batch, tmp_path
):
    base, model = make_trained(make_model, name)
    adapter = Adapter.from_model(model)
    low = adapter.truncate_rank(1)
    assert (adapter.rank, low.rank) == (4, 1)
    for layer, tensors in low.lora.items():
        for key, tensor in tensors.items():
            whole = adapter.lora[layer][key]
            assert torch.equal(tensor, whole[:1] if key.endswith("A") else whole[:, :1])
    low.load_into(model)
    assert same(Adapter.from_model(model).truncate_rank(1), low)
    low.save(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert loaded.peft_config["default"].r == 1
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch))
    for rank in (0, 5):
        with pytest.raises(InputError, match="rank"):
            adapter.truncate_rank(rank)


def test_a_lower_rank_in_a_model_of_full_rank_trains_as_that_rank(make_model, batch):
    """Padding rows and columns of zeros get zero gradients, so they stay zero."""
    _, model = make_trained(make_model, "bert")
    Adapter.from_model(model).truncate_rank(2).load_into(model)
    optimizer = torch.optim.AdamW(
        [w for w in model.parameters() if w.requires_grad], lr=0.1, weight_decay=0.0
    )
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    for tensors in lora_tensors(model).values():
        for key, weight in tensors.items():
            padding = weight[2:] if key.endswith("A") else weight[:, 2:]
            assert not padding.any(), key


def test_the_mean_of_a_layer_is_over_its_holders(make_model):
    adapters = [
        Adapter.from_model(make_trained(make_model, "bert", seed=seed)[1]) for seed in range(3)
    ]
    held = [(2,), (0, 1, 2), (1, 2)]
    mean = Adapter.mean([a.layers(layers) for a, layers in zip(adapters, held, strict=True)])
    assert list(mean.lora) == [0, 1, 2]
    for layer, tensors in mean.lora.items():
        holders = [a for a, layers in zip(adapters, held, strict=True) if layer in layers]
        for key, tensor in tensors.items():
            expected = torch.stack([a.lora[layer][key] for a in holders]).mean(0)
            torch.testing.assert_close(tensor, expected)
    for key, tensor in mean.head.items():
        torch.testing.assert_close(tensor, torch.stack([a.head[key] for a in adapters]).mean(0))
    alone = Adapter.mean([adapters[0]])
    assert same(alone, adapters[0])
    assert alone.head["classifier.weight"] is not adapters[0].head["classifier.weight"]
    with pytest.raises(InputError, match="at least one"):
        Adapter.mean([])
    with pytest.raises(InputError, match="same names and shapes"):
        Adapter.mean([adapters[0], adapters[1].truncate_rank(2)])


def test_the_flat_state_goes_through_safetensors(make_model):
    _, model = make_trained(make_model, "deberta")
    adapter = Adapter.from_model(model)
    state = adapter.state()
    assert adapter.num_bytes == sum(t.numel() * 4 for t in state.values())
    assert "layers.0.attention.self.query_proj.lora_A" in state
    assert "head.pooler.dense.weight" in state
    back = Adapter.from_state(load(save(state)), adapter.layout)
    assert back.state().keys() == state.keys()
    assert all(torch.equal(back.state()[key], state[key]) for key in state)
    assert list(back.lora) == [0, 1, 2]
    for key in ("other.x", "layers.x.y", "layers.1", "layers.-1.y"):
        with pytest.raises(InputError, match="adapter tensor"):
            Adapter.from_state({key: torch.zeros(1)}, adapter.layout)


def test_an_adapter_that_does_not_fit_changes_nothing(make_model):
    _, model = make_trained(make_model, "bert")
    before = Adapter.from_model(model)
    wide = Adapter.from_model(make_trained(make_model, "bert", seed=1, rank=8)[1])
    other = Adapter.from_model(make_trained(make_model, "roberta", seed=1)[1])
    extra = Adapter({**before.lora, 3: before.lora[0]}, before.head, before.layout)
    for adapter in (wide, other, extra):
        with pytest.raises(InputError, match="adapter"):
            adapter.load_into(model)
        assert same(Adapter.from_model(model), before)


def test_mixed_ranks_have_no_rank(make_model):
    adapter = Adapter.from_model(make_trained(make_model, "bert")[1])
    mixed = {**adapter.lora, 0: adapter.truncate_rank(2).lora[0]}
    with pytest.raises(InputError, match=r"\[2, 4\]"):
        _ = Adapter(mixed, adapter.head, adapter.layout).rank


def test_folders_that_hold_no_adapter(make_model, tmp_path):
    adapter = Adapter.from_model(make_trained(make_model, "bert")[1])
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        Adapter.load(tmp_path)
    adapter.save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:100])
    with pytest.raises(InputError, match="adapter folder"):
        Adapter.load(tmp_path)
    save_file({"base_model.model.embeddings.lora_A.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(InputError, match="numbered layers"):
        Adapter.load(tmp_path)
    save_file({"base_model.model.classifier.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(InputError, match="one list of layers"):
        Adapter.load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is not there"):
        Adapter.load(tmp_path)
    weights.write_bytes(data)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change in ({"peft_type": "IA3"}, {"use_rslora": True}, {"rank_pattern": {"query": 2}}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match="plain LoRA"):
            Adapter.load(tmp_path)
