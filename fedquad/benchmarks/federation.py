"""What the engine adds to the training it runs: a round beside a bare loop, and workers."""

from __future__ import annotations

import dataclasses
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from fedquad.benchmarks.plan import group_of
from fedquad.benchmarks.record import Record
from fedquad.benchmarks.timing import Deadline, Stopwatch, quantiles, take_turns
from fedquad.config import FederatedConfig, get_profile, require_int
from fedquad.federation.device import DeviceHost
from fedquad.federation.distributed import DistributedExecutor
from fedquad.federation.executor import Executor, InProcessExecutor, joined
from fedquad.federation.jobs import DeviceJob, HostSpec
from fedquad.federation.plans import profile_config
from fedquad.federation.server import Server
from fedquad.federation.setting import FederatedSetting, config_to_json
from fedquad.methods.method import LocalUpdate
from fedquad.model.lora import trainable_parameters
from fedquad.runs.store import RunStore
from fedquad.training.local import Evaluation, LocalTrainer, cosine_rate, row_order

SIMULATED, STEPS_ALONE, PLAIN_LOOP = (
    "simulated round",
    "the same steps and evaluation",
    "plain loop",
)
ONE_WORKER, TWO_THREADS, TWO_WORKERS = (
    "one worker, one thread",
    "one worker, two threads",
    "two workers, one thread each",
)
# A run of the reference profile, but that all devices do the same: full depth, nothing quantized;
# the rate hardly falls while it is measured.
CONFIG = profile_config(get_profile("reference"), method="fedlora", num_rounds=10_000)


@dataclass(frozen=True, kw_only=True)
class FederationPlan:
    """What is measured of the engine.

    Attributes
    ----------
    config : FederatedConfig
        Of the rounds that really train.
    repeats : int
        Rounds of each case; they take turns.
    devices : tuple of int
        Numbers of devices of the rounds that do not train, ascending.
    updates : int
        That are aggregated while memory is watched.
    """

    config: FederatedConfig = CONFIG
    repeats: int = 10
    devices: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    updates: int = 10_000


def federation_plan_from(options: Namespace) -> FederationPlan:
    """The plan of a command line, see `fedquad.benchmarks.__main__`."""
    chosen = {"repeats": options.repeats, "updates": options.updates}
    for name, value in chosen.items():
        if value is not None:
            require_int(name, value, 1)
    plan = dataclasses.replace(
        FederationPlan(), **{name: value for name, value in chosen.items() if value is not None}
    )
    if options.devices:
        for count in options.devices:
            require_int("devices", count, 1)
        plan = dataclasses.replace(plan, devices=tuple(sorted(set(options.devices))))
    if options.models:
        config = dataclasses.replace(plan.config, model=options.models[0])
        plan = dataclasses.replace(plan, config=config)
    return plan


def run_round(plan: FederationPlan, record: Record, deadline: Deadline) -> None:
    """Time a simulated round beside the same training without the engine."""
    common = _common("round", plan.config)
    with _group(record, "federated round beside a bare loop", deadline) as rows:
        if rows is None:
            return
        with _rounds(plan.config, InProcessExecutor(_host(plan.config))) as (simulated, _):
            bare = _Bare(plan.config)
            cases = {SIMULATED: simulated, STEPS_ALONE: bare.steps, PLAIN_LOOP: bare.plain}
            rows += _timed(cases, STEPS_ALONE, common, plan, deadline)


def run_workers(plan: FederationPlan, record: Record, deadline: Deadline) -> None:
    """Time a round in one worker, in one of two threads, and in two; compare the results."""
    common = _common("workers", plan.config)
    with _group(record, "federated round in workers", deadline) as rows, ExitStack() as stack:
        if rows is None:
            return
        arguments = {"config": config_to_json(plan.config), "torch_device": "cpu"}
        spec = HostSpec(factory="fedquad.federation.device:host_from_json", arguments=arguments)
        executors: dict[str, Executor] = {
            ONE_WORKER: InProcessExecutor(_host(plan.config)),
            TWO_THREADS: _TwoThreads(_host(plan.config)),
            TWO_WORKERS: stack.enter_context(DistributedExecutor(spec, 2)),
        }
        cases, results = {}, {}
        for name, executor in executors.items():
            opened = stack.enter_context(_rounds(plan.config, executor))
            cases[name], results[name] = opened
        rows += _timed(cases, ONE_WORKER, common, plan, deadline)
        for row in rows:
            row["same_bytes"] = results[row["implementation"]] == results[ONE_WORKER]


def _timed(
    cases: dict[str, Callable[[], object]],
    beside: str,
    common: dict[str, Any],
    plan: FederationPlan,
    deadline: Deadline,
) -> list[dict[str, Any]]:
    """A row for each case, with the ratio to one of them in the same turn."""
    for call in cases.values():
        call()  # the first round warms caches up
    phases = {name: {"round": call} for name, call in cases.items()}
    turns = take_turns(Stopwatch("cpu"), phases, repeats=plan.repeats, deadline=deadline)
    if turns.failed:
        raise next(iter(turns.failed.values()))
    rows = []
    for name in cases:
        summary = {key.removeprefix("round_"): v for key, v in turns.summary(name).items()}
        ratios = quantiles(turns.ratios(name, beside, "round", "wall_s"), "wall_s_ratio")
        rows.append({**common, "implementation": name, "status": "ok", **summary, **ratios})
    return rows


def _common(operation: str, config: FederatedConfig) -> dict[str, Any]:
    shape = f"{config.num_devices} devices, {config.local_steps} steps"
    return {
        "kind": "federation",
        "operation": operation,
        "shape": shape,
        "model": config.model,
        "batch_size": config.batch_size,
        "method": config.method,
    }


@contextmanager
def _group(record: Record, name: str, deadline: Deadline) -> Iterator[list[dict[str, Any]] | None]:
    """Rows to fill; None where the group is there already, or time is up."""
    if deadline.passed or record.has(name):
        yield None
        return
    with group_of(record, name) as rows:
        yield rows


def _host(config: FederatedConfig) -> DeviceHost:
    return DeviceHost(FederatedSetting(config))


@contextmanager
def stored_rounds(
    server: Server,
) -> Iterator[tuple[Callable[[], None], list[dict[str, Any]]]]:
    """A call that plays and stores one round, and the rows that this gave so far."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunStore(Path(folder)).open({"experiment": "benchmark"}, {}) as run,
    ):

        def play() -> None:
            run.append(server.play_round())
            run.save_checkpoint(server.checkpoint().encode())

        yield play, run.rows


def _rounds(config: FederatedConfig, executor: Executor) -> Any:
    return stored_rounds(Server(FederatedSetting(config), executor))


class _TwoThreads(InProcessExecutor):
    """Devices one after the other on two torch threads; for comparison, as sums then differ."""

    def fine_tune(self, jobs: Sequence[DeviceJob]) -> Iterator[LocalUpdate]:
        for job in jobs:
            with _threads(2):
                update = self._host.fine_tune(job)
            yield update

    def evaluate(self) -> Evaluation:
        with _threads(2):
            return joined(self._host.evaluate(range(self._host.num_eval_batches)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Bare:
    """The training of a round of FedLoRA without server, adapters and records."""

    def __init__(self, config: FederatedConfig) -> None:
        self._config = config
        self._host = _host(config)
        self._round_idx = 0

    def steps(self) -> None:
        """The library's own local steps and evaluation, and nothing around them."""
        self._each_device(self._train)

    def plain(self) -> None:
        """The same batches through the fewest calls to PyTorch: no checks, no gradient norms."""
        self._each_device(self._train_plainly)

    def _each_device(self, train: Callable[[int, float], None]) -> None:
        config = self._config
        rate = cosine_rate(self._round_idx, config.num_rounds, config.learning_rate)
        for device in range(config.num_devices):
            train(device, rate)
        self._host.evaluate(range(self._host.num_eval_batches))
        self._round_idx += 1

    def _train(self, device: int, rate: float) -> None:
        config = self._config
        trainer = LocalTrainer(
            self._host.model,
            self._host.rows(device),
            num_steps=config.local_steps,
            batch_size=config.batch_size,
            learning_rate=rate,
            seed=(config.seed, self._round_idx, device),
            record_gradient_norms=True,
            schedule="constant",
        )
        for _ in range(config.local_steps):
            trainer.step()

    def _train_plainly(self, device: int, rate: float) -> None:
        config, model, rows = self._config, self._host.model, self._host.rows(device)
        weights = list(trainable_parameters(model).values())
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0, fused=True)
        model.train()
        for step in range(config.local_steps):
            seed = (config.seed, self._round_idx, device)
            batch = rows.batch(row_order(len(rows), config.batch_size, seed, step))
            labels = batch.pop("labels")
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(**batch).logits, labels).backward()
            optimizer.step()
