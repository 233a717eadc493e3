"""The fastest round that gains no less and waits no longer than a given one, found exactly."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fedquad.config import InputError
from fedquad.methods.selection import feasible_configurations
from fedquad.methods.selection_problem import Selection, SelectionProblem

MAX_STATES = 1_000_000  # partial assignments kept at once; some 100 MB


def fastest_assignment(problem: SelectionProblem, reached: Selection) -> Selection:
    """The smallest t_h whose mean gain and mean waiting time are no worse than ``reached``.

    Under Eqs. 11, 14 and 15, theta being the waiting time of ``reached``; devices
    that fit nothing stay out. Exact: the completion times that occur are tried in
    ascending order as the round's time T. Under T the waiting limit asks for
    ``sum t_i >= n (T - theta)``, and a pair of more gain or more time can replace
    one of less, so what remains is a knapsack with one choice a device and two sums
    to be reached. It is solved by keeping the partial assignments that no other
    one beats in both. All sums are whole numbers: no rounding decides.

    Parameters
    ----------
    problem : SelectionProblem
        Of a small fleet: some tens of devices.
    reached : Selection
        Fits the same problem, as Algorithm 1's choice does.

    Returns
    -------
    Selection
        Of the smallest round time; among its assignments one of the largest gain.

    Raises
    ------
    InputError
        The fleet is too large for an exact answer.
    """
    there = np.flatnonzero(reached.takes_part)
    gains = _exact_integers(problem.gain_of_depth)
    times = _exact_times(problem, there)
    fits = feasible_configurations(problem)[there]
    devices = [
        _Device.of(device_fits, device_times, gains)
        for device_fits, device_times in zip(fits, times, strict=True)
    ]
    chosen = [
        device_times[reached.depth[i] - 1][reached.quantized[i]]
        for i, device_times in zip(there, times, strict=True)
    ]
    goal_gain = sum(gains[reached.depth[i] - 1] for i in there)
    waiting = len(there) * max(chosen) - sum(chosen)

    earliest = max(device.fastest for device in devices)
    round_times = sorted({t for device in devices for t in device.times})
    round_times = [t for t in round_times if earliest <= t <= max(chosen)]
    # The gain that is possible within T only grows with T: skip what cannot reach the goal.
    first = bisect.bisect_left(
        round_times,
        True,
        key=lambda t: sum(device.within(t)[0].gain for device in devices) >= goal_gain,
    )
    for round_time in round_times[first:]:
        options = [device.within(round_time) for device in devices]
        goal_time = len(there) * round_time - waiting
        pairs = _reach_both(options, goal_gain, goal_time)
        if pairs is not None:
            break
    depth, quantized = np.zeros((2, problem.num_devices), dtype=np.int64)
    depth[there], quantized[there] = np.transpose(pairs)  # `reached` itself is found at the latest
    return problem.evaluate(depth, quantized)


class _Option(NamedTuple):
    gain: int
    time: int
    pair: tuple[int, int]


class _Device(NamedTuple):
    """Pairs that fit a device: per depth, deepest first, its times by ascending a."""

    by_depth: list[tuple[int, list[_Option]]]

    @classmethod
    def of(cls, fits: np.ndarray, times: list[list[int]], gains: list[int]) -> _Device:
        by_depth = []
        for layer in reversed(range(len(gains))):
            options = [
                _Option(gains[layer], times[layer][a], (layer + 1, int(a)))
                for a in np.flatnonzero(fits[layer])
            ]
            if options:
                by_depth.append(options)
        return cls(by_depth)

    @property
    def times(self) -> list[int]:
        return [option.time for options in self.by_depth for option in options]

    @property
    def fastest(self) -> int:
        return min(self.times)

    def within(self, round_time: int) -> list[_Option]:
        """Those of at most this time that no other beats in gain and time; most gain first."""
        kept: list[_Option] = []
        for options in self.by_depth:
            in_time = [option for option in options if option.time <= round_time]
            if not in_time:
                continue
            slowest = max(in_time, key=lambda option: option.time)  # the fewest a of equal ones
            if kept and slowest.time <= kept[-1].time:
                continue
            if kept and slowest.gain == kept[-1].gain:
                kept.pop()
            kept.append(slowest)
        return kept


def _reach_both(
    options: Sequence[list[_Option]], goal_gain: int, goal_time: int
) -> list[tuple[int, int]] | None:
    """One option a device with both sums at their goals or above, of the largest gain; or None."""
    # What the devices still to come can add at most.
    gain_ahead = sum(device[0].gain for device in options)
    time_ahead = sum(device[-1].time for device in options)
    # Sum of gains, sum of times, and the pairs as a linked list; most gain first.
    states: list[tuple[int, int, tuple]] = [(0, 0, ())]
    for device in options:
        gain_ahead -= device[0].gain
        time_ahead -= device[-1].time
        grown = [
            (gain + option.gain, time + option.time, (option.pair, pairs))
            for gain, time, pairs in states
            for option in device
            if gain + option.gain + gain_ahead >= goal_gain
            and time + option.time + time_ahead >= goal_time
        ]
        grown.sort(key=lambda state: state[:2], reverse=True)
        states = []
        for state in grown:
            if not states or state[1] > states[-1][1]:
                states.append(state)
        if not states:
            return None
        if len(states) > MAX_STATES:
            raise InputError("num_devices", len(options), "a fleet small enough to enumerate")
    pairs, linked = [], states[0][2]
    while linked:
        pair, linked = linked
        pairs.append(pair)
    return pairs[::-1]


def _exact_times(problem: SelectionProblem, devices: np.ndarray) -> list[list[list[int]]]:
    layers = np.arange(problem.costs.num_layers)
    speeds = problem.flops_per_second[devices, None, None]
    times = problem.completion_time_s(layers[:, None] + 1, layers, speeds)
    exact = np.array(_exact_integers(times.ravel()), dtype=object)
    return exact.reshape(times.shape).tolist()


def _exact_integers(values: np.ndarray) -> list[int]:
    """Floats as whole numbers, all multiplied by the same power of two; nothing is rounded."""
    fractions = [Fraction(value) for value in np.asarray(values).tolist()]
    scale = max(fraction.denominator for fraction in fractions)
    return [int(fraction * scale) for fraction in fractions]
