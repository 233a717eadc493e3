"""The targets that were set for quantized activations, and what was measured."""

from __future__ import annotations

import pandas as pd

from fedquad.benchmarks.frames import compared_frame, kernel_frame

NOT_MEASURED = "not measured"
_BANDWIDTH_SHARE = 0.85
_GRADIENT_PERCENT = 0.3
_FUSED_PERCENT = 10.0
_HOOKS_PERCENT = 25.0


def targets_frame(rows: pd.DataFrame, *, on_gpu: bool) -> pd.DataFrame:
    """Each target of this kind of machine beside the measurement.

    Parameters
    ----------
    rows : DataFrame
        Of one record, see `fedquad.benchmarks.frames.rows_frame`.

    Returns
    -------
    DataFrame
        ``target``, ``limit``, ``measured`` and ``met`` (``yes``, ``no`` or
        `NOT_MEASURED`), all of them text.
    """
    steps = compared_frame(rows, "steps")
    found = _gpu_targets(steps, kernel_frame(rows)) if on_gpu else _cpu_targets(steps)
    found += _gradient_targets(steps, "random weights")
    found += _gradient_targets(rows[rows["kind"] == "gradients"], "pretrained weights")
    return pd.DataFrame(found, columns=["target", "limit", "measured", "met"])


def _gpu_targets(steps: pd.DataFrame, kernels: pd.DataFrame) -> list[tuple]:
    base = steps[(steps["model"] == "roberta-base") & (steps["length"] == 128)]
    base = base[(base["batch_size"] == 32) & (base["attention"] == "eager")]
    found = []
    for dtype in ("float32", "bfloat16"):
        of_type = base[base["dtype"] == dtype]
        fast = of_type[(of_type["method"] == "fused") | (of_type["mode"] == "compiled")]
        fast = fast[fast["method"].isin(["fused", "hooks"])]
        name = f"time added, RoBERTa-base, batch 32, length 128, {dtype}: fused or compiled"
        found.append(_at_most(name, _FUSED_PERCENT, fast["added_wall_percent"].min()))
        hooks = of_type[(of_type["method"] == "hooks") & (of_type["mode"] == "eager")]
        name = f"the same, {dtype}: hooks, of device time"
        added = hooks["added_busy_percent"].fillna(hooks["added_device_percent"])
        found.append(_at_most(name, _HOOKS_PERCENT, added.min()))
    ours = kernels[kernels["implementation"] == "fedquad"]
    for operation in ("quantize_blocks", "dequantize_blocks"):
        shares = ours.loc[ours["operation"] == operation].groupby("dtype")["share_of_copy"].max()
        for dtype, share in shares.items():
            name = f"{operation}, {dtype}: share of a copy's bandwidth, largest shape"
            met = "yes" if share >= _BANDWIDTH_SHARE else "no"
            found.append((name, ">= 85 %", f"{100 * share:.0f} %", met))
    return found


def _cpu_targets(steps: pd.DataFrame) -> list[tuple]:
    found = []
    wanted = steps[(steps["batch_size"] == 32) & (steps["mode"] == "eager")]
    wanted = wanted[wanted["attention"] == "eager"]
    for (model, length), group in wanted.groupby(["model", "length"]):
        added = group.set_index("method")["added_wall_percent"]
        name = f"time added by hooks, {model}, batch 32, length {length}"
        if {"hooks", "checkpointing"} <= set(added.index):
            met = "yes" if added["hooks"] < added["checkpointing"] else "no"
            limit = f"< {added['checkpointing']:.0f} % (checkpointing)"
            found.append((name, limit, f"{added['hooks']:.0f} %", met))
    return found


def _gradient_targets(rows: pd.DataFrame, weights: str) -> list[tuple]:
    errors = 100 * pd.to_numeric(rows["lora_gradient_error"])
    found = []
    for method in ("hooks", "fused"):
        name = f"relative error of the LoRA gradient, {method}, largest of all models, {weights}"
        chosen = (rows["method"] == method) & (rows["dtype"] == "float32")
        found.append(_at_most(name, _GRADIENT_PERCENT, errors[chosen].max(), digits=2))
    return found


def _at_most(name: str, limit: float, value: float, digits: int = 0) -> tuple:
    accepted = f"<= {limit:g} %"
    if pd.isna(value):
        return name, accepted, NOT_MEASURED, NOT_MEASURED
    return name, accepted, f"{value:.{digits}f} %", "yes" if value <= limit else "no"
