import pandas as pd
import pytest

from fedquad.config import InputError
from fedquad.fleet.jetson_table import ALL_MODES, jetson_table
from fedquad.report.tables import save_table


def test_table_i_agrees_with_the_paper_where_both_speak():
    df = jetson_table()
    assert df["board"].tolist() == ["Jetson TX2", "Jetson NX", "AGX Xavier"]
    assert df["gpu_type"].tolist() == df["paper_gpu_type"].tolist()
    assert df["cpu_ghz"].tolist() == df["paper_cpu_ghz"].tolist()
    assert df["gpu_ghz"].tolist() == pytest.approx(df["paper_gpu_ghz"].tolist(), abs=0.006)
    assert df["paper_ai_performance"].tolist() == ["1.33 TFLOPS", "21 TOPS", "32 TOPS"]
    assert df["fp16_tflops"].tolist() == pytest.approx([0.870, 4.934, 7.414], abs=1e-3)
    assert df["fp32_tflops"].tolist() == pytest.approx([0.435, 0.617, 0.927], abs=1e-3)
    assert df["clocks_checked"].tolist() == [True, True, False]


def test_the_papers_figure_for_the_tx2_is_its_fp16_peak_in_its_fastest_mode():
    (row,) = jetson_table(["TX2 MaxN"]).itertuples()
    assert row.fp16_tflops == pytest.approx(1.33, abs=0.005)


def test_other_modes_have_nothing_of_the_papers():
    df = jetson_table(ALL_MODES)
    assert len(df) == 16
    stated = df["paper_ai_performance"] != ""
    assert stated.sum() == 3
    assert df.loc[~stated, ["paper_cpu_ghz", "paper_gpu_ghz"]].isna().all(axis=None)
    assert jetson_table(["AGX 10 W"])["gpu_type"].item() == "256-core Volta"
    with pytest.raises(InputError, match="TX2 Max-Q"):
        jetson_table(["TX2 turbo"])


def test_it_is_saved_like_every_table(tmp_path):
    paths = save_table(jetson_table(), "tab01_jetsons", folder=tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), jetson_table())
    assert "| Jetson TX2 | Max-Q | 256-core Pascal |" in paths[1].read_text()
