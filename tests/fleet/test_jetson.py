import dataclasses

import pytest

from fedquad.config import InputError
from fedquad.fleet.jetson import JETSON_MODES, TABLE_I_MODES, flops_per_second, get_mode

# Device, GPU MHz, memory GB/s and FP32 TFLOPS of every mode, as NVIDIA's tables give them.
EXPECTED = [
    ("TX2", 1300, 59.7, 0.666),
    ("TX2", 850, 42.6, 0.435),
    ("TX2", 1120, 51.2, 0.573),
    ("TX2", 1120, 51.2, 0.573),
    ("NX", 1109, 51.2, 0.852),
    ("NX", 1109, 51.2, 0.852),
    ("NX", 803, 51.2, 0.617),
    ("NX", 803, 51.2, 0.617),
    ("AGX", 1377, 136.5, 1.41),
    ("AGX", 522, 68.2, 0.268),
    ("AGX", 676, 85.3, 0.692),
    ("AGX", 905, 102.4, 0.927),
    ("AGX", 905, 102.4, 0.927),
    ("AGX", 905, 102.4, 0.927),
    ("AGX", 905, 102.4, 0.927),
    ("AGX", 676, 85.3, 0.692),
]


def test_modes_have_the_published_clocks_and_peaks():
    assert len(JETSON_MODES) == 16
    for mode, (device, mhz, bandwidth, tflops) in zip(JETSON_MODES, EXPECTED, strict=True):
        assert (mode.device, mode.gpu_mhz, mode.memory_gb_per_s) == (device, mhz, bandwidth)
        assert mode.fp32_flops / 1e12 == pytest.approx(tflops, abs=0.001)
        assert mode.verified == (device != "AGX")


def test_names_are_unique_and_found():
    assert len({mode.name for mode in JETSON_MODES}) == 16
    assert all(get_mode(mode.name) is mode for mode in JETSON_MODES)
    with pytest.raises(InputError, match="TX2 Max-Q"):
        get_mode("TX2 turbo")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("TX2 MaxN", 1.331), ("NX 15 W 6-core", 6.813), ("AGX MAXN", 11.280), ("AGX 10 W", 2.138)],
)
def test_fp16_peaks(name, tflops):
    assert get_mode(name).fp16_flops / 1e12 == pytest.approx(tflops, abs=0.001)


def test_table_i_rows_have_the_papers_clocks():
    rows = [get_mode(name) for name in TABLE_I_MODES]
    assert [round(row.gpu_mhz / 1000, 2) for row in rows] == pytest.approx(
        [0.85, 0.8, 0.9], abs=0.011
    )
    assert [float(row.cpu.split()[1]) for row in rows] == [1.2, 1.2, 1.45]


def test_the_three_throughput_models():
    mode = get_mode("TX2 Max-Q")
    assert flops_per_second(mode) == pytest.approx(0.3 * 4 * 256 * 850e6)
    assert flops_per_second(mode, "fp32") == pytest.approx(0.3 * 2 * 256 * 850e6)
    assert flops_per_second(mode, "roofline", 2.0) == pytest.approx(42.6e9 * 2)
    assert flops_per_second(mode, "roofline", 1e6) == flops_per_second(mode)


def test_in_fp32_the_weakest_agx_mode_is_slower_than_any_tx2():
    agx = flops_per_second(get_mode("AGX 10 W"), "fp32")
    assert all(
        agx < flops_per_second(mode, "fp32") for mode in JETSON_MODES if mode.device == "TX2"
    )


@pytest.mark.parametrize(
    "arguments",
    [("int8",), ("roofline",), ("roofline", 0.0), ("roofline", float("nan")), ("fp16", 3.0)],
)
def test_bad_throughput_models_are_refused(arguments):
    with pytest.raises(InputError):
        flops_per_second(JETSON_MODES[0], *arguments)


def test_modes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        JETSON_MODES[0].gpu_mhz = 1
