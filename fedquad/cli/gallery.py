"""``fedquad gallery``: the pages that are made from the committed figures."""

from __future__ import annotations


def gallery() -> None:
    """Write figures/README.md, the table of claims in README.md and data/runs/README.md.

    The first two are made from the csv files of the committed profiles alone, the
    last from their runs.
    """
    from fedquad import paths
    from fedquad.report.gallery import update_readme, write_gallery
    from fedquad.run_table import write_run_table

    figures_root = paths.project_root() / "figures"
    print(write_gallery(figures_root))
    readme = paths.project_root() / "README.md"
    update_readme(readme, figures_root)
    print(readme)
    print(write_run_table(paths.project_root() / "data" / "runs"))
