import dataclasses

import pytest

from fedquad.config import FederatedConfig, InputError
from fedquad.fleet.fleet import JetsonFleet, make_fleet, read_fleet
from fedquad.fleet.jetson import flops_per_second, get_mode


def test_settings_of_a_run_reach_the_fleet(costs):
    config = FederatedConfig(
        num_devices=17, heterogeneity="medium", throughput_model="fp32", seed=6
    )
    fleet = make_fleet(config, costs, 50.0, 12)
    expected = JetsonFleet(
        17, "medium", costs, reference_num_layers=12, throughput_model="fp32", seed=6
    )
    assert fleet.statuses(13) == expected.statuses(13)


def test_the_roofline_gets_the_intensity_and_the_peaks_do_not_mind_it(costs):
    config = FederatedConfig(throughput_model="roofline")
    for status in make_fleet(config, costs, 2.0).statuses(0):
        mode = get_mode(status.mode)
        assert status.flops_per_second == flops_per_second(mode, "roofline", 2.0)
    config = FederatedConfig(throughput_model="fp16")
    assert make_fleet(config, costs, 2.0).statuses(0) == make_fleet(config, costs, 9.0).statuses(0)


def test_a_file_takes_the_place_of_simulated_devices(tmp_path, costs):
    path = tmp_path / "fleet.csv"
    path.write_text("device_id,memory_budget_bytes,flops_per_second\na,900,1e9\nb,700,2e9\n")
    config = FederatedConfig(num_devices=20, fleet=str(path))
    fleet = make_fleet(config, costs, 50.0)
    assert fleet.num_devices == 2
    assert fleet.statuses(5) == read_fleet(path, costs).statuses(0)
    missing = dataclasses.replace(config, fleet=str(tmp_path / "nowhere.csv"))
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        make_fleet(missing, costs, 50.0)
