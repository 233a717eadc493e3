"""Sphinx reads this; `docs/build.py` lays out the pages beside it and starts Sphinx."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

import fedquad

project = "FedQuad, by experiment"
version = release = fedquad.__version__
html_title = "FedQuad, by experiment"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False  # the notebooks are in the repository
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it is fetched, which a page without a server may not
exclude_patterns = ["figures/*/*.md", "figures/*/*/*.md"]  # tables, shown by the gallery's page

extensions = [
    "myst_nb",  # notebooks and Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # numpy's docstrings
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax itself, beside the pages
]

nb_execution_mode = "off"  # they come executed
nb_merge_streams = True
# A static page has no kernel: of an explorer it shows the still picture, and no script is fetched.
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # single backticks in docstrings
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = False
# Names of attributes are no links: many classes have a `depth`.
napoleon_custom_sections = [("Attributes", "params_style")]
suppress_warnings = ["ref.python"]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""

    def keep_bars(app: Sphinx, what: str, name: str, obj: object, options, lines) -> None:
        # |t - t_avg| is an absolute value and no substitution.
        for at, line in enumerate(lines):
            lines[at] = re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line)

    app.connect("autodoc-process-docstring", keep_bars)
