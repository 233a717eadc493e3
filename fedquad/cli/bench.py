"""``fedquad bench``: step times of LoRA depths and full fine-tuning on this machine."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from fedquad.cli.options import print_json


def bench(
    *,
    model: str = "embedded",
    batch_size: int = 32,
    length: int = 48,
    repeats: int = 10,
    torch_device: str = "cpu",
    attention: str = "eager",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure the seconds of a training step: every LoRA depth, and full fine-tuning.

    Weights and tokens are random, so no checkpoint is needed. The settings are
    run in turn, so that a slow moment of the machine falls on all of them.
    Kernels, quantized and checkpointed steps: `python -m fedquad.benchmarks`.

    Parameters
    ----------
    model
        As in `fedquad memory`.
    batch_size
        Rows of the step.
    length
        Tokens of each row.
    repeats
        Measured steps of each setting.
    torch_device
        cpu, cuda or cuda:1.
    attention
        eager or sdpa.
    json
        Print a JSON list instead of a table.
    """
    from fedquad.config import LayerConfig
    from fedquad.cost.latency import measure_steps
    from fedquad.model.backbone import architecture

    num_layers = architecture(model).num_hidden_layers
    depths = range(1, num_layers + 1)
    settings = [("lora", LayerConfig(depth).trainable_layers(num_layers)) for depth in depths]
    latencies = measure_steps(
        model,
        [*settings, ("full", None)],
        batch_size=batch_size,
        length=length,
        repeats=repeats,
        torch_device=torch_device,
        attention=attention,
    )
    names = [*(f"LoRA depth {depth}" for depth in depths), "full"]
    rows = [
        {"setting": name, **latency.summary(), "torch_device": latency.torch_device}
        for name, latency in zip(names, latencies, strict=True)
    ]
    if json:
        print_json(rows)
        return
    print(f"{model}, batch {batch_size}, length {length}, medians of {repeats} steps, ms")
    print(f"{'setting':<14} {'forward':>9} {'backward':>9} {'optimizer':>9} {'step':>9}")
    for row in rows:
        times = (row[f"{phase}_s"] for phase in ("forward", "backward", "optimizer", "step"))
        print(f"{row['setting']:<14} " + " ".join(f"{1e3 * seconds:9.1f}" for seconds in times))
