"""``fedquad plan``: what Algorithm 1 gives each device of a fleet, and why."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fedquad.cli.options import print_json
from fedquad.config import InputError, require_positive

if TYPE_CHECKING:  # they load torch
    from fedquad.cost.layer_costs import LayerCosts
    from fedquad.methods.selection_problem import Selection, SelectionProblem


def plan(
    *,
    fleet: Path,
    model: str = "roberta-large",
    batch_size: int = 32,
    length: int = 128,
    quantization_price: Literal["paper", "counted"] = "paper",
    costs: Path | None = None,
    gradient_norms: Path | None = None,
    mean_time: float | None = None,
    local_steps: int = 1,
    reward_offset: float = 1e-4,
    leave_out_infeasible: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Choose LoRA depth and number of quantized layers for every device by Algorithm 1.

    The choice has the highest reward, gain / (|completion time - mean time| +
    offset), among the depths that fit, each with the fewest quantized layers that
    it needs. Ties go to the smaller depth.

    Parameters
    ----------
    fleet
        CSV file with the columns device_id, memory_budget_bytes, flops_per_second.
    model
        Model whose costs count, as for `fedquad memory`.
    batch_size
        Rows of a step.
    length
        Tokens of each row.
    quantization_price
        What a quantized layer saves and costs: by the paper, or as counted here.
    costs
        JSON file with num_layers and the six constants of Eqs. 6 and 11, in place
        of a model; FLOPs are per local step.
    gradient_norms
        JSON file: a list of one norm a layer, first layer first. Default: all alike.
    mean_time
        Mean completion time of the round before, in seconds. Default: the mean
        over the devices' deepest unquantized depths, as before the first round.
    local_steps
        Steps of a round; completion times are of all of them.
    reward_offset
        The constant c of Eq. 18, in seconds.
    leave_out_infeasible
        Leave out devices that fit nothing, and name them on stderr; by default
        they are an error.
    json
        Print a JSON list, one object a device, instead of a table.
    """
    from fedquad.cost.layer_costs import LayerCosts
    from fedquad.fleet.fleet import read_fleet
    from fedquad.methods.selection import require_all, select_configurations
    from fedquad.methods.selection_problem import SelectionProblem

    if mean_time is not None:
        require_positive("mean_time", mean_time)
    if costs is None:
        from fedquad.cost.reference_costs import reference_costs

        layer_costs = reference_costs(model, batch_size, length).price(quantization_price)
    else:
        layer_costs = LayerCosts.from_json(_read_text("costs", costs))
    statuses = read_fleet(fleet, layer_costs).statuses(0)
    problem = SelectionProblem(
        costs=layer_costs,
        memory_budget_bytes=[status.memory_budget_bytes for status in statuses],
        flops_per_second=[status.flops_per_second for status in statuses],
        gradient_norms=_norms(gradient_norms, layer_costs),
        mean_completion_time_s=mean_time,
        local_steps=local_steps,
        reward_offset_s=reward_offset,
    )
    selection = select_configurations(problem)
    device_ids = [status.device_id for status in statuses]
    if not leave_out_infeasible:
        require_all(selection, device_ids, problem)
    rows = _rows(selection, device_ids)
    for row in rows:
        if not row["depth"]:
            print(f"fedquad: left out, fits nothing: {row['device_id']}", file=sys.stderr)
    if json:
        print_json([row for row in rows if row["depth"]])
        return
    mean_from = "given" if mean_time is not None else "mean of the deepest unquantized depths"
    print(f"mean completion time {problem.mean_completion_time_s:.6g} s ({mean_from})")
    print(f"local steps {local_steps}, reward offset {reward_offset:g} s")
    _print_reasons(problem, device_ids, rows)


def _rows(selection: Selection, device_ids: list[str]) -> list[dict[str, Any]]:
    columns = {"device_id": device_ids}
    measured = ("completion_time_s", "memory_bytes", "expected_gain", "reward")
    for name in ("depth", "quantized", *measured):
        columns[name] = getattr(selection, name).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _print_reasons(
    problem: SelectionProblem, device_ids: list[str], rows: list[dict[str, Any]]
) -> None:
    """Per device the feasible set, times and rewards; a star where the choice fell."""
    from fedquad.methods.selection import candidate_rewards, candidate_times_s, feasible_quantized

    costs = problem.costs
    candidates = feasible_quantized(costs, problem.memory_budget_bytes)
    times, rewards = candidate_times_s(problem), candidate_rewards(problem)
    budgets, speeds = problem.memory_budget_bytes, problem.flops_per_second
    for device, device_id in enumerate(device_ids):
        print(f"\n{device_id}: {budgets[device]:,} bytes, {speeds[device]:.6g} FLOP/s")
        num_feasible = int((candidates[device] >= 0).sum())
        if num_feasible:
            heads = ("memory bytes", "time s", "gap to mean s", "gain G(d)", "reward R")
            print("   depth  quantized" + "".join(f"{head:>16}" for head in heads))
        for index in range(num_feasible):
            depth, quantized = index + 1, int(candidates[device, index])
            used = costs.memory_bytes(depth, quantized)
            gap = times[device, index] - problem.mean_completion_time_s
            values = (times[device, index], gap, problem.gain_of_depth[index])
            star = "*" if depth == rows[device]["depth"] else " "
            numbers = "".join(f"{value:>16.6g}" for value in (*values, rewards[device, index]))
            print(f" {star} {depth:>5}  {quantized:>9}{used:>16,}{numbers}")
        if num_feasible < costs.num_layers:
            last = costs.num_layers
            depths = f"{num_feasible + 1} to {last}" if num_feasible + 1 < last else f"{last}"
            print(f"   depth {depths}: does not fit, whatever is quantized below the output layer")


def _norms(path: Path | None, costs: LayerCosts) -> list[float]:
    if path is None:
        return [1.0] * costs.num_layers
    try:
        text = _read_text("gradient_norms", path)
        norms = json_format.loads(text, parse_int=float)  # however many digits it has
    except ValueError as error:
        raise InputError("gradient_norms", str(path), f"a JSON list ({error})") from error
    accepted = f"a JSON list of {costs.num_layers} numbers, one a layer, first layer first"
    if not isinstance(norms, list):
        raise InputError("gradient_norms", str(path), accepted)
    for layer, norm in enumerate(norms):
        if not isinstance(norm, float):
            raise InputError(f"gradient_norms[{layer}]", norm, "a number")
    return norms


def _read_text(field: str, path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(field, str(path), f"a file to read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(field, str(path), "UTF-8 text") from error
