from __future__ import annotations

from fedquad.methods import create_method


def test_every_device_trains_all_and_counts_alike(
    make_setting, make_statuses, make_history, make_adapter, make_update, fills
):
    method = create_method("fedlora", make_setting(3, lora_rank=4))
    assignments = method.assign(make_statuses(1, 3), make_history())
    accumulator = method.accumulator(make_adapter({0: 9, 1: 9, 2: 9}, head=9))
    trained = [
        make_adapter({0: 1, 1: 2, 2: 3}, head=4),
        make_adapter({0: 3, 1: 6, 2: 0}, head=2),
    ]
    for device, (assignment, adapter) in enumerate(zip(assignments, trained, strict=True)):
        assert assignment.trainable_layers == assignment.active_layers == (0, 1, 2)
        assert assignment.lora_rank == 4
        sent = method.finish_update(adapter, adapter, assignment)
        accumulator.add(make_update(assignment, sent, device, num_samples=1 + 9 * device))
    assert fills(accumulator.finish()) == {0: 2, 1: 4, 2: 1.5, "head": 3}
