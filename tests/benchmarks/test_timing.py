from fedquad.benchmarks.timing import Deadline, Stopwatch, quantiles, take_turns


class CountingStopwatch(Stopwatch):
    """A clock that every call sets forward by what it returns."""

    def __init__(self):
        super().__init__("cpu")

    def wall(self, calls):
        return [call() for call in calls]

    def device_times(self, calls, queueing_s):
        return [seconds / 2 for seconds in queueing_s]


def test_cases_take_turns_and_ratios_are_paired():
    order = []
    slow = iter([1.0, 1.0, 10.0, 10.0, 2.0, 2.0])  # a slow moment falls on both

    def case(name, factor):
        def call():
            order.append(name)
            return next(slow) * factor

        return {"forward": call}

    turns = take_turns(
        CountingStopwatch(),
        {"none": case("none", 1), "hooks": case("hooks", 3)},
        repeats=3,
        deadline=Deadline(),
    )
    assert order == ["none", "hooks"] * 3
    assert turns.ratios("hooks", "none", "forward", "wall_s") == [3, 3, 3]
    assert turns.summary("none")["forward_wall_s"] == 2
    assert turns.summary("none")["forward_device_s"] == 1
    assert "full_wall_s" not in turns.summary("none")  # of one phase it is that phase


def test_phases_add_up():
    cases = {"none": {"forward": lambda: 1.0, "backward": lambda: 2.0}}
    turns = take_turns(CountingStopwatch(), cases, repeats=2, deadline=Deadline())
    summary = turns.summary("none")
    assert summary["full_wall_s"] == 3
    assert summary["full_device_s"] == 1.5
    assert summary["repeats"] == 2


def test_a_case_that_fails_is_left_out_and_keeps_no_frames():
    calls = iter([1.0, ValueError("no more")])

    def failing():
        value = next(calls)
        if isinstance(value, Exception):
            raise value
        return value

    cases = {"bad": {"forward": failing}, "good": {"forward": lambda: 1.0}}
    turns = take_turns(CountingStopwatch(), cases, repeats=4, deadline=Deadline())
    assert list(turns.failed) == ["bad"]
    assert turns.failed["bad"].__traceback__ is None
    assert turns.summary("good")["repeats"] == 4


def test_a_deadline_leaves_two_repeats():
    cases = {"none": {"forward": lambda: 1.0}}
    turns = take_turns(CountingStopwatch(), cases, repeats=50, deadline=Deadline(0))
    assert turns.summary("none")["repeats"] == 2


def test_a_cpu_has_no_device_times():
    turns = take_turns(
        Stopwatch("cpu"), {"none": {"forward": lambda: None}}, repeats=2, deadline=Deadline()
    )
    summary = turns.summary("none")
    assert summary["forward_wall_s"] > 0
    assert summary["forward_device_s"] is None


def test_quantiles_of_nothing_are_nothing():
    assert quantiles([1.0, 2.0, 3.0], "x") == {"x": 2, "x_q25": 1.5, "x_q75": 2.5}
    assert set(quantiles([], "x").values()) == {None}


def test_no_deadline_never_passes():
    assert not Deadline().passed
    assert Deadline(0).passed
    assert not Deadline(1000).passed
