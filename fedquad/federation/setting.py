"""What a run's settings stand for: its task, encoder, costs, fleet and method."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fedquad.config import FederatedConfig, InputError, settings_of
from fedquad.cost.layer_costs import LayerCosts
from fedquad.cost.reference_costs import ReferenceCosts, are_committed, reference_costs
from fedquad.fleet.clock import clock_local_steps
from fedquad.fleet.fleet import Fleet, make_fleet
from fedquad.methods import create_method, find_method, normalised_options
from fedquad.methods.method import Method, MethodSetting
from fedquad.model.backbone import Backbone, load_backbone, model_identity
from fedquad.model.pretrained import find_pretrained, read_config
from fedquad.tasks.task import Task, load_task, task_identity, with_holdout

# The batches of the clock are the paper's, whatever is trained.
CLOCK_BATCH_SIZE, CLOCK_LENGTH = 32, 128


class FederatedSetting:
    """The parts of a federated run, each made when it is first asked for.

    Parameters
    ----------
    config : FederatedConfig
    """

    def __init__(self, config: FederatedConfig) -> None:
        self.config = config

    @cached_property
    def task(self) -> Task:
        """Rows to train on and to evaluate on."""
        config = self.config
        task = load_task(
            config.task, train_samples=config.train_samples, eval_samples=config.eval_samples
        )
        return with_holdout(task) if config.evaluate_on == "holdout" else task

    @property
    def backbone(self) -> Backbone:
        """A fresh encoder with a fresh head, each time anew: it is changed in place."""
        labels = len(self.task.label_names)
        return load_backbone(self.config.model, num_labels=labels, seed=self.config.seed)

    @cached_property
    def num_layers(self) -> int:
        """L of the trained encoder."""
        return read_config(find_pretrained(self.config.model).folder).num_hidden_layers

    @cached_property
    def reference(self) -> ReferenceCosts:
        """Costs of the reference model."""
        return reference_costs(
            self.config.reference_model,
            CLOCK_BATCH_SIZE,
            CLOCK_LENGTH,
            activation_bits=self.counted_bits,
        )

    @property
    def counted_bits(self) -> int:
        """Bits of the quantized activations in the counted price; the paper's does not ask."""
        is_counted = self.config.quantization_price == "counted"
        return self.config.activation_bits if is_counted else 8

    @cached_property
    def costs(self) -> LayerCosts:
        """The reference model's costs, cut into the layers of the trained encoder."""
        whole = self.reference.price(self.config.quantization_price)
        return whole.of_layers(self.num_layers)

    @cached_property
    def fleet(self) -> Fleet:
        """The devices, simulated or from a file."""
        return make_fleet(
            self.config,
            self.costs,
            arithmetic_intensity=self.reference.arithmetic_intensity,
            reference_num_layers=self.reference.costs.num_layers,
        )

    @property
    def num_devices(self) -> int:
        """n."""
        return self.fleet.num_devices

    @cached_property
    def clock_local_steps(self) -> int:
        """Local steps of a round on the virtual clock."""
        if self.config.clock_local_steps is not None:
            return self.config.clock_local_steps
        rows = len(self.task.train) // self.num_devices
        return clock_local_steps(self.config.task, rows, CLOCK_BATCH_SIZE)

    @cached_property
    def method(self) -> Method:
        """The method, with nothing learned yet."""
        config = self.config
        setting = MethodSetting(
            costs=self.costs,
            local_steps=self.clock_local_steps,
            lora_rank=config.lora_rank,
            budget_policy=config.budget_policy,
            seed=config.seed,
        )
        return create_method(config.method, setting, dict(config.method_options))

    def require_usable(self) -> None:
        """Find what is wrong with the settings before anything is stored or started.

        Raises
        ------
        InputError
            More devices than rows to train on, or an option that the method refuses.
        """
        rows = len(self.task.train)
        if self.num_devices > rows:
            accepted = f"at most {rows}, the number of samples to share out"
            raise InputError("num_devices", self.num_devices, accepted)
        _ = self.method

    def sources(self) -> dict[str, str]:
        """Digests of what a run is computed from beside its settings."""
        return {
            "task": self.task.fingerprint,
            "model": find_pretrained(self.config.model).sha256,
            "costs": self.costs_digest(),
        }

    def costs_digest(self) -> str:
        """SHA-256 of what the clock and the memory are computed from, whatever is trained."""
        whole = self.reference.price(self.config.quantization_price)
        priced = json.dumps([whole.to_json(), self.reference.arithmetic_intensity])
        return hashlib.sha256(priced.encode()).hexdigest()


def costs_at_hand(config: FederatedConfig) -> dict[str, str]:
    """Digest of a run's costs where they are committed; counting them would take a minute."""
    setting = FederatedSetting(config)
    if not are_committed(config.reference_model, activation_bits=setting.counted_bits):
        return {}
    return {"costs": setting.costs_digest()}


def all_settings(configs: Iterable[FederatedConfig]) -> list[dict[str, Any]]:
    """The settings that each run's id is the hash of.

    Names of tasks, models and fleets give way to their identity, options at
    their default are left out. Each distinct task and model is looked up once.
    """
    configs = list(configs)
    tasks = {name: task_identity(name) for name in {config.task for config in configs}}
    models = {name: model_identity(name) for name in {config.model for config in configs}}
    return [
        _plain(settings_of(config))
        | {
            "task": tasks[config.task],
            "model": models[config.model],
            "fleet": fleet_identity(config.fleet),
            "num_devices": None if config.fleet else config.num_devices,
            "method": find_method(config.method).name,
            "method_options": dict(normalised_options(config.method, dict(config.method_options))),
        }
        for config in configs
    ]


def fleet_identity(fleet: str | None) -> str | None:
    """``file:`` and a digest of a fleet's file, wherever it lies; None for simulated Jetsons."""
    if fleet is None:
        return None
    try:
        content = Path(fleet).expanduser().read_bytes()
    except OSError as error:
        accepted = f"a CSV file that can be read ({error.strerror or error})"
        raise InputError("fleet", fleet, accepted) from error
    return f"file:{hashlib.sha256(content).hexdigest()[:16]}"


def config_to_json(config: FederatedConfig) -> dict[str, Any]:
    """A config as JSON values, for a worker process."""
    return _plain(dataclasses.asdict(config))


def config_from_json(values: Mapping[str, Any]) -> FederatedConfig:
    """The inverse of `config_to_json`, and of a record's settings but for identities."""
    fields = {field.name for field in dataclasses.fields(FederatedConfig)}
    known = {name: value for name, value in values.items() if name in fields}
    options = known.get("method_options", ())
    pairs = options.items() if isinstance(options, Mapping) else options
    known["method_options"] = tuple((name, value) for name, value in pairs)
    if known.get("num_devices", 1) is None:  # a fleet from a file has its own
        del known["num_devices"]
    if "partition_alpha" in known:
        known["partition_alpha"] = float(known["partition_alpha"])
    return FederatedConfig(**known)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """With an infinite alpha, which JSON has no number for, in words."""
    alpha = values["partition_alpha"]
    return values | {"partition_alpha": "inf" if math.isinf(alpha) else alpha}
