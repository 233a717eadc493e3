import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSequenceClassification

from fedquad.config import InputError, LayerConfig
from fedquad.cost.accounting import step_cost
from fedquad.cost.tracing import StepMeter
from fedquad.model.backbone import architecture
from fedquad.model.lora import attach_lora, set_trainable_layers

LAYER_CHOICES = [(0, 1, 2, 3), (1, 3), (3,)]


def real_model(folder, tuning, layers, attention="eager"):
    """The same architecture with real weights, put together apart from the accounting."""
    config = architecture(folder)
    config.num_labels = 3
    config.problem_type = "single_label_classification"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    if tuning == "lora":
        fresh = ("pooler", "classifier") if config.model_type == "deberta-v2" else ("classifier",)
        model = attach_lora(model, rank=4, alpha=4, fresh_modules=fresh)
        set_trainable_layers(model, layers)
    return model.train()


def real_batch(batch_size, length):
    ids = torch.randint(3, 101, (batch_size, length))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    labels = torch.arange(batch_size) % 3
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def kept_bytes(model, batch):
    """Bytes that autograd keeps of real tensors, by address."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    weights |= {tensor.untyped_storage().data_ptr() for tensor in model.buffers()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    loss.backward()
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_fake_count_equals_real_tensors(family, dropout, tuning, small_model, monkeypatch):
    def one_byte_masks(input, p=0.5, training=True, inplace=False):
        return torch.native_dropout(input, p, training)[0] if p else input

    folder = small_model(family, dropout)
    for layers in LAYER_CHOICES if tuning == "lora" else [None]:
        counted = step_cost(
            folder,
            batch_size=3,
            length=17,
            tuning=tuning,
            trainable_layers=layers,
            lora_rank=4,
        )
        model = real_model(folder, tuning, layers)
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "dropout", one_byte_masks)
            assert counted.activation_bytes == kept_bytes(model, real_batch(3, 17))


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_flops_equal_the_flop_counter_on_real_tensors(family, tuning, small_model):
    folder = small_model(family)
    for layers in LAYER_CHOICES if tuning == "lora" else [None]:
        counted = step_cost(
            folder, batch_size=2, length=9, tuning=tuning, trainable_layers=layers, lora_rank=4
        )
        model = real_model(folder, tuning, layers)
        with FlopCounterMode(display=False) as forward:
            loss = model(**real_batch(2, 9)).loss
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        assert counted.forward_flops == forward.get_total_flops()
        assert counted.backward_flops == backward.get_total_flops()


@pytest.mark.parametrize(
    ("model", "hidden", "heads"), [("roberta-base", 768, 12), ("bert-large", 1024, 16)]
)
def test_bytes_of_a_layer_in_closed_form(model, hidden, heads):
    batch, length, rank = 4, 48, 8
    cost = step_cost(model, batch_size=batch, length=length, lora_rank=rank)
    tokens, probabilities = batch * length, batch * heads * length**2
    floats = (
        tokens * hidden  # input of the layer, for LoRA's A of query and value
        + 2 * tokens * rank  # A x, for B
        + 3 * tokens * hidden  # query, key, value
        + 2 * probabilities  # softmax, and the dropped-out probabilities times value
        + 2 * tokens * hidden  # inputs of both layer norms
        + 4 * tokens  # their means and reciprocal deviations
        + 4 * tokens * hidden  # input of GELU
    )
    dropout_masks = probabilities + 2 * tokens * hidden  # one byte each
    expected = 4 * floats + dropout_masks
    assert set(cost.activation_bytes_by_layer[1:]) == {expected}


def test_forward_flops_in_closed_form():
    batch, length, hidden, rank, layers = 2, 32, 768, 8, 12
    cost = step_cost("bert-base", batch_size=batch, length=length, lora_rank=rank, num_labels=3)
    tokens = batch * length
    per_layer = (
        2 * tokens * (4 * hidden**2 + 2 * hidden * 4 * hidden)
        + 2 * 2 * batch * length**2 * hidden
        + 2 * tokens * 2 * 2 * hidden * rank
    )
    head = 2 * batch * (hidden**2 + hidden * 3)
    assert cost.forward_flops == layers * per_layer + head


def test_paper_memory_within_six_percent():
    large = {batch: step_cost("roberta-large", batch_size=batch, length=256) for batch in (16, 32)}
    assert large[32].activation_bytes == pytest.approx(15.9e9, rel=0.06)
    assert large[32].total_bytes == pytest.approx(17.4e9, rel=0.06)
    assert large[32].activation_share == pytest.approx(0.915, rel=0.06)
    assert large[16].activation_share == pytest.approx(0.851, rel=0.06)
    full = step_cost("roberta-large", batch_size=32, length=256, tuning="full")
    assert full.total_bytes == pytest.approx(25e9, rel=0.10)
    whole = step_cost("roberta-base").total_bytes
    for layers, share in (
        ((0, 1, 2, 3), 0.930),
        ((4, 5, 6, 7), 0.699),
        ((8, 9, 10, 11), 0.465),
    ):
        reproduced = step_cost("roberta-base", trainable_layers=layers).total_bytes / whole
        assert reproduced == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_layers_below_the_lowest_trainable_keep_nothing(family, small_model):
    folder = small_model(family, dropout=0.1)
    everything = step_cost(folder, length=16)
    for depth in range(1, 5):
        layers = LayerConfig(depth).trainable_layers(4)
        cost = step_cost(folder, length=16, trainable_layers=layers)
        lowest = layers[0]
        assert cost.activation_bytes_by_layer[:lowest] == (0,) * lowest
        above = cost.activation_bytes_by_layer[lowest + 1 :]
        assert above == everything.activation_bytes_by_layer[lowest + 1 :]
        assert cost.activation_bytes_by_layer[lowest] > 0
        assert cost.activation_bytes_outside_layers == everything.activation_bytes_outside_layers
        assert cost.forward_flops == everything.forward_flops
        assert cost.weight_bytes == everything.weight_bytes


def test_cost_grows_by_the_same_step_with_depth(small_model):
    folder = small_model(num_layers=6)
    costs = [
        step_cost(folder, length=16, trainable_layers=LayerConfig(depth).trainable_layers(6))
        for depth in range(2, 7)
    ]
    for name in ("total_bytes", "activation_bytes", "backward_flops", "trainable_parameters"):
        values = [getattr(cost, name) for cost in costs]
        growth = {later - earlier for earlier, later in itertools.pairwise(values)}
        assert len(growth) == 1, name
        assert growth.pop() > 0, name


def test_frozen_layer_between_trained_ones_keeps_less(small_model):
    folder = small_model()
    some = step_cost(folder, length=16, trainable_layers=(0, 3)).activation_bytes_by_layer
    every = step_cost(folder, length=16).activation_bytes_by_layer
    assert 0 < some[1] < every[1]
    assert some[3] == every[3]


def test_activations_scale_with_the_batch(small_model):
    folder = small_model()
    one, four = (step_cost(folder, batch_size=size, length=16) for size in (1, 4))
    assert four.activation_bytes_by_layer == tuple(4 * b for b in one.activation_bytes_by_layer)
    assert four.forward_flops == 4 * one.forward_flops
    assert four.weight_bytes == one.weight_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_about_half(dtype):
    single, half = (step_cost("roberta-base", batch_size=8, dtype=d) for d in ("float32", dtype))
    # Masks of one byte and fp32 statistics of the layer norms stay as they are.
    assert 0.5 < half.activation_bytes / single.activation_bytes < 0.56
    assert half.gradient_bytes * 2 == single.gradient_bytes
    assert half.optimizer_bytes == single.optimizer_bytes
    assert half.forward_flops == single.forward_flops


def test_sdpa_keeps_no_probabilities():
    batch, length, hidden, heads, rank = 2, 64, 768, 12, 16
    cost = step_cost("roberta-base", batch_size=batch, length=length, attention="sdpa")
    tokens = batch * length
    floats = (
        tokens * hidden
        + 2 * tokens * rank
        + 4 * tokens * hidden  # query, key, value and output
        + batch * heads * length  # logsumexp
        + batch * length**2  # the mask as a bias, for all heads
        + 2 * tokens * hidden
        + 4 * tokens
        + 4 * tokens * hidden
    )
    expected = 4 * floats + 2 * tokens * hidden
    seeds = 16  # seed and offset of the random state
    assert cost.activation_bytes_by_layer[1] == pytest.approx(expected, abs=seeds)
    eager = step_cost("roberta-base", batch_size=batch, length=length)
    assert cost.forward_flops == eager.forward_flops
    ragged = step_cost("roberta-base", batch_size=batch, length=37, attention="sdpa")
    assert ragged.activation_bytes > 0


def test_full_fine_tuning_trains_every_weight(small_model):
    cost = step_cost(small_model(), length=16, tuning="full")
    model = real_model(small_model("bert", 0.1), "full", None)
    assert cost.trainable_parameters == cost.parameters == model.num_parameters()
    assert cost.gradient_bytes == 4 * cost.parameters
    assert cost.optimizer_bytes == 8 * cost.parameters
    assert cost.weight_bytes >= 4 * cost.parameters  # buffers too


def test_parts_add_up(small_model):
    cost = step_cost(small_model("deberta-v2"), length=16)
    by_layer = sum(cost.activation_bytes_by_layer)
    assert cost.activation_bytes == by_layer + cost.activation_bytes_outside_layers
    parts = cost.weight_bytes + cost.gradient_bytes + cost.optimizer_bytes + cost.activation_bytes
    summary = cost.summary()
    assert summary["total_bytes"] == cost.total_bytes == parts
    assert summary["total_flops"] == cost.forward_flops + cost.backward_flops
    assert cost.arithmetic_intensity == pytest.approx(cost.total_flops / cost.operand_bytes)


def test_meter_counts_what_is_read_and_written():
    x, weight = torch.zeros(3, 4), torch.zeros(4, 5)
    with StepMeter() as meter:
        product = x @ weight
        product.t().reshape(15)  # a copy: 15 in, 15 out
        product.view(15)[3:].expand(2, 12)  # views
        product.add_(1)  # in place: read and written
    assert meter.flops == 2 * 3 * 4 * 5
    assert meter.operand_bytes == 4 * ((12 + 20 + 15) + (15 + 15) + (15 + 15))


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("bert-base", 109_482_240),
        ("bert-large", 335_141_888),
        ("roberta-base", 124_645_632),
        ("roberta-large", 355_359_744),
        ("deberta-v3-base", 183_831_552),
        ("deberta-v3-large", 434_012_160),
    ],
)
def test_architectures_have_the_published_size(model, parameters):
    with torch.device("meta"):
        assert AutoModel.from_config(architecture(model)).num_parameters() == parameters


def test_names_of_the_hub_are_known():
    for name in ("FacebookAI/roberta-base", "roberta-base"):
        assert step_cost(name, batch_size=1, length=8) == step_cost(
            "roberta-base", batch_size=1, length=8
        )


def test_a_changed_folder_is_priced_anew(small_model, tmp_path):
    folder = small_model(num_layers=4)
    before = step_cost(folder, length=16)
    other = small_model(num_layers=3)
    (tmp_path / "bert-0.0-4" / "config.json").write_text(
        (tmp_path / "bert-0.0-3" / "config.json").read_text()
    )
    assert step_cost(folder, length=16) == step_cost(other, length=16) != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt-17"}, "roberta-large"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": 2.0}, "batch_size = 2.0"),
        ({"length": 0}, "length = 0"),
        ({"length": 513}, "from 1 to 512"),
        ({"tuning": "prefix"}, "one of lora, full"),
        ({"trainable_layers": ()}, "depth >= 1"),
        ({"trainable_layers": (11, 12)}, "below 12"),
        ({"trainable_layers": (3, 1)}, "ascending"),
        ({"trainable_layers": (1,), "tuning": "full"}, "trains every weight"),
        ({"lora_rank": 0}, "lora_rank = 0"),
        ({"dtype": "int8"}, "float32, bfloat16, float16"),
        ({"attention": "flash"}, "eager, sdpa"),
        ({"model": "deberta-v3-base", "attention": "sdpa"}, "eager for deberta-v2"),
        ({"num_labels": 1}, "num_labels = 1"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        step_cost(**{"model": "roberta-base", **arguments})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_count_matches_the_cuda_allocator(attention, dtype):
    layers = tuple(range(4, 12))
    counted = step_cost(
        "roberta-base",
        batch_size=16,
        trainable_layers=layers,
        lora_rank=4,
        dtype=str(dtype).removeprefix("torch."),
        attention=attention,
    )
    model = real_model("roberta-base", "lora", layers, attention).to("cuda", dtype)
    batch = {name: tensor.cuda() for name, tensor in real_batch(16, 128).items()}
    efficient = torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION
    with torch.nn.attention.sdpa_kernel(efficient):
        model(**batch).loss.backward()  # workspaces of cuBLAS are allocated now
        model.zero_grad(set_to_none=True)
        before = torch.cuda.memory_allocated()
        loss = model(**batch).loss
    kept = torch.cuda.memory_allocated() - before
    assert loss.requires_grad
    assert kept == pytest.approx(counted.activation_bytes, rel=0.03)
