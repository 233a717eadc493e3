"""Tables on disk, paper against ours, and the generated pages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedquad.config import InputError
from fedquad.report.comparison import ITEMS, REPRODUCTIONS, comparison_table
from fedquad.report.gallery import CLAIMS_BEGIN, CLAIMS_END, update_readme, write_gallery
from fedquad.report.hyperparameters import TAGS, hyperparameter_table
from fedquad.report.main_tables import FORMATS, heterogeneity_table
from fedquad.report.paper import get_claim, reported, reported_items
from fedquad.report.tables import datasets_table, save_table
from fedquad.tasks.task import load_task

TRAINED = ("fig02b-acc", "fig03-gain", "fig04a-acc", "fig04b-acc", "fig04b-gain")


def test_a_table_is_written_in_three_forms(tmp_path):
    df = pd.DataFrame({"name": ["a|b", "c_d & e %"], "count": [392702, None], "x": [0.123456, 2.0]})
    paths = save_table(df, "tab", folder=tmp_path, formats={"x": ".2f"})
    assert [path.suffix for path in paths] == [".csv", ".md", ".tex"]
    assert pd.read_csv(paths[0]).equals(df)
    assert "| a\\|b | 392,702 | 0.12 |" in paths[1].read_text()
    tex = paths[2].read_text()
    assert r"c\_d \& e \%" in tex
    assert r"\begin{tabular}{lrr}" in tex


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="empty"):
        save_table(pd.DataFrame({"a": []}), "tab", folder=tmp_path)


def test_every_number_of_the_paper_has_ours_beside_it():
    stated = {number.id for item in ITEMS for number in reported_items(item)}
    assert stated == set(REPRODUCTIONS)


@pytest.mark.parametrize("item", ITEMS)
def test_comparison_shows_all_rows_and_judges_none_that_do_not_compare(figures_root, item):
    table = comparison_table(item, figures_root / "reference").set_index("id")
    assert list(table.index) == [number.id for number in reported_items(item)]
    assert table["reproduced"].notna().all()
    assert table.loc[table["kind"] == "absolute", "difference_percent"].isna().all()
    assert table.loc[table["kind"] == "ratio", "difference_percent"].notna().all()
    trained = table.index.str.startswith(TRAINED)
    assert table.loc[trained, "difference_percent"].isna().all()
    assert (table.loc[trained, "low"] < table.loc[trained, "high"]).all()
    assert table.loc[trained, "note"].str.contains("embedded on micro-mnli").all()


def test_accuracy_of_the_papers_own_model_and_task_compares(frames, tmp_path):
    df = frames["fig02b_layer_position_accuracy"]
    df = df.assign(model="FacebookAI/roberta-base", task="mnli")
    df.to_csv(tmp_path / "fig02b_layer_position_accuracy.csv", index=False)
    table = comparison_table("fig02", tmp_path).set_index("id")
    row = table.loc["fig02b-acc-A"]
    assert row["difference_percent"] == pytest.approx(100 * (row["reproduced"] / 83.2 - 1))
    assert table.loc["fig02a-mem-S", "note"] == "not attempted (figure not computed)"


def test_units_of_ours_are_the_papers(figures_root):
    from fedquad.report.claims.evidence import Evidence

    evidence = Evidence(figures_root / "reference")
    for id, reproduce in REPRODUCTIONS.items():
        number = reported(id)
        task = "micro-mnli" if id.startswith(TRAINED) else None
        ours = reproduce(evidence.of_task(task) if task else evidence)
        assert ours.unit == number.unit, id
        assert np.isfinite(ours.value)


def test_unknown_ids_and_items_are_refused(tmp_path):
    for call in (
        lambda: reported("nothing"),
        lambda: get_claim("nothing"),
        lambda: reported_items("fig77"),
        lambda: comparison_table("fig77", tmp_path),
    ):
        with pytest.raises(InputError):
            call()


def test_hyperparameters_all_carry_a_known_tag():
    table = hyperparameter_table()
    assert set(table["tag"]) == set(TAGS)
    assert table["setting"].is_unique
    assert (table["value"].str.len() > 0).all()


def test_datasets_are_counted_from_their_source(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    rows = "sentence\tlabel\n" + "".join(f"some words {i}\t{i % 2}\n" for i in range(6))
    (folder / "train.tsv").write_text(rows)
    (folder / "dev.tsv").write_text(rows + "no label here\n")
    task = load_task(str(folder))
    row = datasets_table([task]).iloc[0]
    assert (row["train"], row["test"], row["refused"]) == (6, 6, 1)
    assert pd.isna(row["paper_train"])


def test_gallery_shows_every_figure_and_is_the_same_twice(figures_root):
    path = write_gallery(figures_root)
    text = path.read_text()
    for image in (figures_root / "reference").glob("*.png"):
        assert f"](reference/{image.name})" in text
    assert "Fig. 2(b)" in text
    assert "**reproduced**" in text
    assert write_gallery(figures_root).read_text() == text


def test_gallery_names_figures_and_tables_as_the_paper_does(main_frames, tmp_path):
    folder = tmp_path / "reference"
    folder.mkdir()
    for name in ("fig10_ablation", "tab04_curves"):
        main_frames[name].to_csv(folder / f"{name}.csv", index=False)
        (folder / f"{name}.png").touch()
    levels = heterogeneity_table(main_frames["tab04_curves"])
    save_table(levels, "tab04_heterogeneity", folder=folder, formats=FORMATS)
    text = write_gallery(tmp_path).read_text()
    for heading in ("Fig. 10: ablation", "Table IV: curves", "Table IV: heterogeneity"):
        assert f"### {heading}\n" in text
    assert (folder / "tab04_heterogeneity.md").read_text() in text
    assert "Table III" not in text
    readme = tmp_path / "README.md"
    readme.write_text(f"{CLAIMS_BEGIN}\n{CLAIMS_END}\n")
    update_readme(readme, tmp_path)
    table = readme.read_text()
    # Claims whose figure is in no folder take no row.
    assert {line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")} == {
        "| figure", "| ---", "| Fig. 10", "| Table IV",
    }  # fmt: skip


def test_readme_gets_its_table_between_the_markers_only(figures_root, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{CLAIMS_BEGIN}\nyesterday\n{CLAIMS_END}\nafter\n")
    update_readme(readme, figures_root)
    text = readme.read_text()
    assert text.startswith(f"before\n{CLAIMS_BEGIN}\n")
    assert text.endswith(f"{CLAIMS_END}\nafter\n")
    assert "yesterday" not in text
    assert "`reference`:" in text
    update_readme(readme, figures_root)
    assert readme.read_text() == text


def test_readme_without_markers_is_left_alone(figures_root, tmp_path):
    readme = tmp_path / "README.md"
    for content in (
        "nothing",
        f"{CLAIMS_END}\n{CLAIMS_BEGIN}\n",
        2 * f"{CLAIMS_BEGIN}{CLAIMS_END}",
    ):
        readme.write_text(content)
        with pytest.raises(InputError, match="claims:begin"):
            update_readme(readme, figures_root)
        assert readme.read_text() == content


def test_a_task_of_its_own_has_a_folder_in_the_gallery(frames, tmp_path):
    df = frames["fig03a_depth_accuracy"].assign(task="mnli")
    (tmp_path / "glue" / "mnli").mkdir(parents=True)
    df.to_csv(tmp_path / "glue" / "mnli" / "fig03a_depth_accuracy.csv", index=False)
    assert "## glue/mnli" in write_gallery(tmp_path).read_text()
