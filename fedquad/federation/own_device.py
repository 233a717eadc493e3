"""A real device: its own rows, its own memory and speed, one of a deployed run."""

from __future__ import annotations

import statistics
import time
from functools import cached_property
from pathlib import Path

from fedquad.config import Assignment, FederatedConfig, LayerConfig
from fedquad.cost.layer_costs import LayerCosts
from fedquad.federation.device import DeviceHost
from fedquad.federation.jobs import DeviceJob
from fedquad.federation.setting import FederatedSetting
from fedquad.fleet.fleet import DeviceStatus, FixedFleet, Fleet
from fedquad.tasks.glue import read_train_rows
from fedquad.tasks.task import Task, TokenizedSplit, fingerprint_of

_PROBE_STEPS = 3


class OwnSetting(FederatedSetting):
    """The setting of a run as one of its devices knows it.

    Parameters
    ----------
    config : FederatedConfig
    folder : path
        Holds ``train.tsv``.
    label_names : tuple of str
        Of the run's task.
    costs : LayerCosts
        Of the trained model itself, as the server counts them.
    """

    def __init__(
        self,
        config: FederatedConfig,
        folder: str | Path,
        label_names: tuple[str, ...],
        costs: LayerCosts,
    ) -> None:
        super().__init__(config)
        self._folder = Path(folder).expanduser()
        self._label_names = label_names
        self.costs = costs

    @cached_property
    def task(self) -> Task:
        """The device's rows to train on; nobody evaluates here, so one of them stands for that."""
        train = read_train_rows(self._folder, self._label_names)
        evaluation = train.subset([0])
        return Task(
            name=self._folder.name,
            application="",
            label_names=self._label_names,
            train=train,
            eval=evaluation,
            fingerprint=fingerprint_of(self._label_names, train, evaluation),
            source=self._folder.name,
        )

    @cached_property
    def fleet(self) -> Fleet:
        """This device alone: no rows are shared out."""
        status = DeviceStatus(
            device_id="own", depth_budget=1, memory_budget_bytes=1, flops_per_second=1.0
        )
        return FixedFleet([status])


class OwnDevice(DeviceHost):
    """A host that is one device, whatever its number in the run: all rows are its own."""

    def rows(self, device: int) -> TokenizedSplit:
        return self._train_rows


def measured_flops_per_second(host: DeviceHost, costs: LayerCosts, num_layers: int) -> float:
    """q_i of the machine: FLOPs of a step as they are counted, over the seconds it takes here.

    Steps train the output layer alone, forward and backward on a batch of the
    device's own rows, and change nothing. So a completion time that is predicted
    from it is one of this machine's, short rows and all.
    """
    assignment = Assignment.from_layer_config(LayerConfig(1), num_layers, host.config.lora_rank)
    job = DeviceJob(device=0, round_idx=0, assignment=assignment)
    host.probe(job)  # the first one allocates
    seconds = []
    for _ in range(_PROBE_STEPS):
        start = time.perf_counter()
        host.probe(job)
        seconds.append(time.perf_counter() - start)
    return costs.price(assignment).flops / statistics.median(seconds)
