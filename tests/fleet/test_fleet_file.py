import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquad.config import InputError
from fedquad.cost.layer_costs import LayerCosts
from fedquad.fleet.fleet import (
    DeviceStatus,
    FixedFleet,
    JetsonFleet,
    depth_budget,
    read_fleet,
    write_fleet,
)

HEADER = "device_id,memory_budget_bytes,flops_per_second\n"
text = st.text(max_size=8).filter(str.isprintable)


@pytest.fixture
def fleet_csv(tmp_path):
    """Write a text or bytes to a file and return its path."""

    def write(content):
        path = tmp_path / "fleet.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_hand_written_file(fleet_csv, costs):
    path = fleet_csv(HEADER + "phone,799,2e12\ntablet,800,5.5\nserver,999999,1e13\nwatch,599,3\n")
    fleet = read_fleet(path, costs)
    assert fleet.num_devices == 4
    statuses = fleet.statuses(0)
    assert fleet.statuses(31) == statuses
    # 500 bytes, and 100 a layer, of 12 layers
    assert [(s.device_id, s.depth_budget) for s in statuses] == [
        ("phone", 2),
        ("tablet", 3),
        ("server", 12),
        ("watch", 0),
    ]
    assert statuses[1] == DeviceStatus(
        device_id="tablet", depth_budget=3, memory_budget_bytes=800, flops_per_second=5.5
    )


def test_columns_in_any_order_others_left_alone_and_forms_of_other_programs(fleet_csv, costs):
    content = (
        "\ufefffloor,mode, flops_per_second ,device_id,device_class,memory_budget_bytes\r\n"
        '3,fast,1E3,"a, b",strong, 900 \r\n'
        "\r\n"
    )
    (status,) = read_fleet(fleet_csv(content), costs).statuses(0)
    assert status == DeviceStatus(
        device_id="a, b",
        device_class="strong",
        mode="fast",
        depth_budget=4,
        memory_budget_bytes=900,
        flops_per_second=1000.0,
    )


@given(memory=st.integers(0, 10**13), fixed=st.integers(0, 10**13), layer=st.integers(1, 10**12))
def test_depth_budget_is_the_deepest_that_fits(memory, fixed, layer):
    costs = LayerCosts(
        num_layers=24,
        fixed_bytes=fixed,
        bytes_per_lora_layer=layer,
        bytes_saved_per_quantized_layer=0,
        forward_flops=1,
        flops_per_lora_layer=0,
        flops_per_quantized_layer=0,
    )
    fitting = [depth for depth in range(1, 25) if fixed + layer * depth <= memory]
    assert depth_budget(memory, costs) == max(fitting, default=0)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    costs = LayerCosts(
        num_layers=12,
        fixed_bytes=500,
        bytes_per_lora_layer=100,
        bytes_saved_per_quantized_layer=58,
        forward_flops=1200,
        flops_per_lora_layer=60,
        flops_per_quantized_layer=40,
    )
    names = data.draw(st.lists(text.filter(str.strip), min_size=1, max_size=4, unique=True))
    statuses = []
    for name in names:
        memory = data.draw(st.integers(1, 2**63 - 1))
        statuses.append(
            DeviceStatus(
                device_id=name,
                device_class=data.draw(text),
                mode=data.draw(text),
                depth_budget=depth_budget(memory, costs),
                memory_budget_bytes=memory,
                flops_per_second=data.draw(
                    st.floats(min_value=0, exclude_min=True, allow_infinity=False)
                ),
            )
        )
    path = tmp_path_factory.getbasetemp() / "fleet.csv"
    write_fleet(path, statuses)
    assert read_fleet(path, costs).statuses(0) == statuses


def test_a_round_of_simulated_devices_round_trips(tmp_path, costs):
    statuses = JetsonFleet(50, "high", costs, seed=3).statuses(4)
    write_fleet(tmp_path / "fleet.csv", statuses)
    assert read_fleet(tmp_path / "fleet.csv", costs).statuses(0) == statuses


@pytest.mark.parametrize(
    ("rows", "field", "value"),
    [
        ("a,900,0\n", "flops_per_second in line 2", "0"),
        ("a,900,1\nb,900,-2e9\n", "flops_per_second in line 3", "-2e9"),
        ("a,900,1\n\nb,900,nan\n", "flops_per_second in line 4", "nan"),
        ("a,900,inf\n", "flops_per_second in line 2", "inf"),
        ("a,900,1e999\n", "flops_per_second in line 2", "1e999"),
        ("a,900,fast\n", "flops_per_second in line 2", "fast"),
        ("a,900,\n", "flops_per_second in line 2", ""),
        ("a,900.5,1\n", "memory_budget_bytes in line 2", "900.5"),
        ("a,-900,1\n", "memory_budget_bytes in line 2", "-900"),
        ("a,0,1\n", "memory_budget_bytes in line 2", "0"),
        ("a,8 GB,1\n", "memory_budget_bytes in line 2", "8 GB"),
        ("a,,1\n", "memory_budget_bytes in line 2", ""),
        ("a,9223372036854775808,1\n", "memory_budget_bytes in line 2", "9223372036854775808"),
        ("a,900,1\nb,900,1\na,800,2\n", "device_id in line 4", "a"),
        ('"a\nb",900,1\n', "device_id in line 2", "a\nb"),
        (" ,900,1\n", "device_id in line 2", " "),
        (",,\n", "device_id in line 2", ""),
        ("a,900\n", "fields in line 2", 2),
        ("a,900,1,2\n", "fields in line 2", 4),
    ],
)
def test_a_line_that_cannot_be_used_is_named(fleet_csv, costs, rows, field, value):
    path = fleet_csv(HEADER + rows)
    with pytest.raises(InputError) as caught:
        read_fleet(path, costs)
    assert caught.value.field == f"{field} of {path}"
    assert caught.value.value == value
    assert caught.value.accepted


def test_a_repeated_name_is_told_where_it_was(fleet_csv, costs):
    path = fleet_csv(HEADER + "a,900,1\nb,900,1\na,800,2\n")
    with pytest.raises(InputError, match="line 2 has this one too"):
        read_fleet(path, costs)


def test_lines_are_counted_in_the_file_even_where_a_field_goes_over_several(fleet_csv, costs):
    path = fleet_csv("note," + HEADER + '"two\nlines",a,900,1\n,b,900,0\n')
    with pytest.raises(InputError, match="flops_per_second in line 4"):
        read_fleet(path, costs)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "header"),
        ("\n\n", "header"),
        (HEADER, "at least one device"),
        ("device_id,flops_per_second\na,1\n", "memory_budget_bytes is missing"),
        ("a,900,1\n", "device_id is missing"),
        (HEADER.strip() + ",device_id\na,900,1,b\n", "device_id is more than once"),
        (HEADER.strip() + ",mode,mode\na,900,1,x,y\n", "mode is more than once"),
        (HEADER.encode() + b"\xff\xfe,900,1\n", "UTF-8"),
        (HEADER.encode("utf-16"), "UTF-8"),
        (HEADER + '"a,900,1\n', "line 2"),
    ],
)
def test_files_that_are_no_fleet_are_refused(fleet_csv, costs, content, named):
    path = fleet_csv(content)
    with pytest.raises(InputError, match=named) as caught:
        read_fleet(path, costs)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path, costs):
    with pytest.raises(InputError, match="No such file"):
        read_fleet(tmp_path / "nowhere.csv", costs)
    with pytest.raises(InputError, match="readable file"):
        read_fleet(tmp_path, costs)


def test_a_fleet_needs_devices_that_differ_in_name(tmp_path, costs):
    (status,) = JetsonFleet(1, "low", costs).statuses(0)
    for statuses in ([], [status, status]):
        with pytest.raises(InputError, match="statuses"):
            FixedFleet(statuses)
        with pytest.raises(InputError, match="statuses"):
            write_fleet(tmp_path / "fleet.csv", statuses)
    assert not (tmp_path / "fleet.csv").exists()
