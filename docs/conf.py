"""Sphinx reads this; `docs/build.py` lays out the pages beside it and starts Sphinx."""

from __future__ import annotations

import fedquad

project = "FedQuad, by experiment"
version = release = fedquad.__version__
html_title = "FedQuad, by experiment"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False  # the notebooks are in the repository
html_show_sphinx = False

extensions = [
    "myst_nb",  # notebooks and Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # numpy's docstrings
    "sphinx.ext.viewcode",
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
napoleon_use_ivar = True  # attributes of a dataclass are described once
