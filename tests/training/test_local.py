from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, RobertaConfig

from fedquad.config import InputError
from fedquad.model.lora import attach_lora, lora_tensors, set_lora_depth, trainable_parameters
from fedquad.tasks.task import TokenizedSplit
from fedquad.training.local import (
    DivergenceError,
    LocalTrainer,
    cosine_rate,
    evaluate,
    row_order,
)

SETTINGS = {"num_steps": 12, "batch_size": 8, "learning_rate": 0.02, "seed": 5}


def make_rows(count: int = 60) -> TokenizedSplit:
    """Rows of 3 to 11 tokens; the second token decides the class."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(4, 40, rng.integers(3, 12)).astype(np.int32) for _ in range(count)]
    labels = np.array([row[1] % 3 for row in ids], dtype=np.int64)
    return TokenizedSplit(ids, None, labels, 0.0, pad_token_id=1)


def make_model(tuning: str = "lora", depth: int = 2) -> torch.nn.Module:
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=1,
        num_labels=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    if tuning == "lora":
        model = attach_lora(model, rank=4, alpha=4, fresh_modules=("classifier",))
        set_lora_depth(model, depth)
    return model


def make_trainer(tuning: str = "lora", **changes) -> LocalTrainer:
    record = tuning == "lora"
    settings = SETTINGS | {"record_gradient_norms": record} | changes
    return LocalTrainer(make_model(tuning), make_rows(), **settings)


def test_training_learns():
    rows = make_rows(200)
    trainer = LocalTrainer(
        make_model("full"), rows, num_steps=150, batch_size=20, learning_rate=0.01, seed=0
    )
    before = evaluate(trainer.model, rows)
    losses = [trainer.step() for _ in range(trainer.num_steps)]
    after = evaluate(trainer.model, rows)
    assert abs(before.loss - math.log(3)) < 0.1
    assert losses[0] > np.mean(losses[-10:]) + 0.3
    assert after.accuracy > before.accuracy + 0.3


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_steps_are_those_of_a_plain_adamw_loop(tuning):
    trainer = make_trainer(tuning)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    reference = make_model(tuning)
    weights = trainable_parameters(reference)
    optimizer = torch.optim.AdamW(weights.values(), weight_decay=0.0, fused=False, foreach=False)
    rows = make_rows()
    for step in range(4):
        chosen = row_order(60, 8, 5, step)
        batch = rows.batch(chosen)
        loss = cross_entropy(
            reference.eval()(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
        )
        assert trainer.step() == pytest.approx(loss.item(), abs=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = cosine_rate(step, 12, 0.02)
        optimizer.step()
    trained = trainable_parameters(trainer.model)
    assert trained.keys() == weights.keys()
    for name, weight in weights.items():
        # The embeddings of tokens that have tiny gradients move by sign alone.
        torch.testing.assert_close(trained[name], weight, rtol=1e-3, atol=2e-4)


def test_full_tuning_moves_every_weight_that_matters_and_lora_only_its_own():
    for tuning in ("full", "lora"):
        trainer = make_trainer(tuning)
        before = {name: w.clone() for name, w in trainer.model.named_parameters()}
        trained = trainable_parameters(trainer.model).keys()
        for _ in range(3):
            trainer.step()
        moved = {n for n, w in trainer.model.named_parameters() if not torch.equal(w, before[n])}
        # The key's bias shifts all scores of a row alike: softmax does not see it.
        assert {name for name in trained - moved if not name.endswith("key.bias")} == set()
        assert moved <= trained


GO_ON = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_local import make_trainer
torch.set_num_threads(1)
trainer = make_trainer(sys.argv[2])
trainer.load_state(Path(sys.argv[3]).read_bytes())
while trainer.step_idx < trainer.num_steps:
    trainer.step()
Path(sys.argv[4]).write_bytes(trainer.state())
"""


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_run_resumed_in_another_process_ends_with_the_same_bytes(tuning, tmp_path):
    trainer = make_trainer(tuning)
    for _ in range(7):
        trainer.step()
    (tmp_path / "saved").write_bytes(trainer.state())
    while trainer.step_idx < trainer.num_steps:
        trainer.step()
    arguments = [str(Path(__file__).parent), tuning, tmp_path / "saved", tmp_path / "ended"]
    subprocess.run([sys.executable, "-c", GO_ON, *arguments], check=True)
    assert (tmp_path / "ended").read_bytes() == trainer.state()


@pytest.mark.parametrize("stop", [0, 1, 6, 12])
def test_a_run_resumes_at_any_step(stop):
    straight = make_trainer()
    states = [straight.state()]
    losses = []
    while straight.step_idx < straight.num_steps:
        losses.append(straight.step())
        states.append(straight.state())
    resumed = make_trainer()
    resumed.load_state(states[stop])
    assert resumed.step_idx == stop
    assert resumed.state() == states[stop]
    assert [resumed.step() for _ in range(12 - stop)] == losses[stop:]
    assert resumed.state() == states[-1]
    assert resumed.mean_gradient_norms() == straight.mean_gradient_norms()


def test_a_run_depends_on_its_seed_and_not_on_the_noise_around_it():
    losses = []
    for noise, seed in ((0, 5), (1, 5), (0, 6), (0, (5, 1))):
        torch.manual_seed(noise)
        trainer = make_trainer(seed=seed)
        for _ in range(3):
            before = torch.get_rng_state()
            trainer.step()
            assert torch.equal(torch.get_rng_state(), before)
            torch.rand(noise)
        losses.append(trainer.step())
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_dropout_is_drawn_anew_each_step():
    settings = {"num_steps": 50, "batch_size": 8, "learning_rate": 1e-12, "seed": 5}
    trainer = LocalTrainer(make_model(), make_rows(8), **settings)  # the same rows every step
    losses = [round(trainer.step(), 6) for _ in range(4)]
    assert len(set(losses)) == 4


def test_gradient_norms_are_averaged_over_the_steps():
    trainer = make_trainer()
    assert trainer.mean_gradient_norms() == {}
    seen: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(3):
        trainer.step()
        for layer, weights in lora_tensors(trainer.model).items():
            squares = sum(w.grad.double().square().sum().item() for w in weights.values())
            seen[layer].append(math.sqrt(squares))
    expected = {layer: pytest.approx(np.mean(norms)) for layer, norms in seen.items()}
    assert trainer.mean_gradient_norms() == expected
    assert make_trainer(record_gradient_norms=False).mean_gradient_norms() == {}


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_stops_before_the_state_is_spoiled(where):
    trainer = make_trainer()
    trainer.step()
    if where == "loss":
        with torch.no_grad():
            next(iter(trainable_parameters(trainer.model).values())).fill_(float("inf"))
    else:
        weight = next(iter(trainable_parameters(trainer.model).values()))
        weight.register_hook(lambda gradient: gradient * float("nan"))
    before = trainer.state()
    with pytest.raises(DivergenceError, match="step 1 of 12"):
        trainer.step()
    assert trainer.state() == before


def test_no_step_after_the_last():
    trainer = make_trainer(num_steps=1)
    trainer.step()
    with pytest.raises(RuntimeError, match="all 1 steps"):
        trainer.step()


def test_a_state_that_does_not_belong_is_refused_and_changes_nothing():
    trainer = make_trainer()
    trainer.step()
    own = trainer.state()
    deeper = LocalTrainer(make_model("lora", depth=1), make_rows(), **SETTINGS)
    bad = {
        "undamaged": [b"", own[:50], own[: len(own) // 2], b"\xff" * 64, own[:8] + b"x" + own[9:]],
        "one of a run with": [make_trainer(seed=6).state(), make_trainer(num_steps=13).state()],
        "trainable parameters": [deeper.state(), make_trainer("full").state()],
    }
    for message, states in bad.items():
        for state in states:
            with pytest.raises(InputError, match=message):
                trainer.load_state(state)
            assert trainer.state() == own


def test_bad_arguments():
    rows, empty = make_rows(), TokenizedSplit([], None, np.zeros(0, dtype=np.int64), 0.0, 1)
    for field, value in (("num_steps", 0), ("batch_size", 0), ("learning_rate", 0.0)):
        with pytest.raises(InputError, match=field):
            LocalTrainer(make_model(), rows, **(SETTINGS | {field: value}))
    with pytest.raises(InputError, match="rows to train on"):
        LocalTrainer(make_model(), empty, **SETTINGS)
    with pytest.raises(InputError, match="rows to evaluate"):
        evaluate(make_model(), empty)
    with pytest.raises(InputError, match="trainable parameters"):
        LocalTrainer(make_model().requires_grad_(False), rows, **SETTINGS)


def test_a_split_smaller_than_a_batch_is_one_batch():
    trainer = LocalTrainer(make_model(), make_rows(5), **SETTINGS)
    assert math.isfinite(trainer.step())


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_row_by_row_in_the_order_of_the_split(batch_size, training):
    rows, model = make_rows(), make_model("full").train(training)
    result = evaluate(model, rows, batch_size)
    assert model.training is training
    model.eval()
    correct, losses = [], []
    with torch.no_grad():
        for ids, label in zip(rows.input_ids, rows.labels, strict=True):
            logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits
            correct.append(logits.argmax().item() == label)
            losses.append(cross_entropy(logits, torch.tensor([label])).item())
    assert result.correct.tolist() == correct
    assert result.accuracy == np.mean(correct)
    assert result.loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_evaluation_leaves_gradients_and_noise_alone():
    trainer = make_trainer()
    trainer.step()
    before = torch.get_rng_state()
    evaluate(trainer.model, make_rows())
    assert torch.equal(torch.get_rng_state(), before)
    untouched = make_trainer()
    untouched.step()
    assert trainer.step() == untouched.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_takes_the_steps_of_the_cpu_and_resumes():
    on_cpu = make_trainer()
    on_gpu = LocalTrainer(
        make_model(), make_rows(), **SETTINGS, torch_device="cuda", record_gradient_norms=True
    )
    for trainer in (on_cpu, on_gpu):
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    for _ in range(3):
        assert on_gpu.step() == pytest.approx(on_cpu.step(), abs=1e-3)
    resumed = LocalTrainer(make_model(), make_rows(), **SETTINGS, torch_device="cuda")
    resumed.load_state(on_gpu.state())
    assert resumed.state() == on_gpu.state()
    assert evaluate(on_gpu.model, make_rows()).loss == pytest.approx(
        evaluate(on_cpu.model, make_rows()).loss, abs=1e-2
    )
