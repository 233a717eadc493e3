from __future__ import annotations

from collections import Counter
from itertools import combinations

from fedquad.methods import create_method


def drawn(make_setting, make_history, statuses, round_idx=0, seed=0, num_layers=4):
    method = create_method("fedra", make_setting(num_layers, seed=seed))
    assignments = method.assign(statuses, make_history(round_idx, num_layers))
    return [assignment.active_layers for assignment in assignments]


def test_a_draw_comes_from_seed_round_and_device_alone(make_setting, make_statuses, make_history):
    def draw(*depths, **place):
        statuses = make_statuses(*depths)
        return drawn(make_setting, make_history, statuses, num_layers=24, **place)

    first = draw(12, 12, 5)
    assert draw(12, 12, 5) == first
    assert draw(1, 12, 24)[1] == first[1]
    assert len({*first, *draw(12, 12, 5, round_idx=1), *draw(12, 12, 5, seed=1)}) == 9


def test_every_set_of_layers_is_equally_likely(make_setting, make_statuses, make_history):
    counts = Counter(drawn(make_setting, make_history, make_statuses(*[2] * 3000)))
    assert sorted(counts) == [*combinations(range(4), 2)]
    # 3000 draws of 6 sets: 500 each, standard deviation 20.4; seeded, so never by chance.
    assert all(abs(count - 500) < 4 * 20.4 for count in counts.values())


def test_the_chosen_layers_are_all_that_is_run_trained_and_averaged(
    make_setting, make_statuses, make_history, make_adapter, make_update, fills
):
    method = create_method("fedra", make_setting(4))
    assignments = method.assign(make_statuses(2, 1, 3), make_history())
    accumulator = method.accumulator(make_adapter(dict.fromkeys(range(4), 100), head=100))
    holders = {layer: [] for layer in range(4)}
    for device, assignment in enumerate(assignments):
        layers = assignment.active_layers
        assert assignment.trainable_layers == layers
        trained = make_adapter(dict.fromkeys(layers, 10**device), head=device)
        sent = method.finish_update(trained, trained, assignment)
        accumulator.add(make_update(assignment, sent, device, num_samples=1 + device))
        for layer in layers:
            holders[layer].append(10**device)
    assert [len(assignment.active_layers) for assignment in assignments] == [2, 1, 3]
    expected = {n: sum(v) / len(v) if v else 100 for n, v in holders.items()}
    assert fills(accumulator.finish()) == expected | {"head": 1}
