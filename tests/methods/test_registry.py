from __future__ import annotations

import inspect
import re
import textwrap

import pytest

from fedquad import methods
from fedquad.config import InputError
from fedquad.methods import METHODS, create_method, find_method, normalised_options
from fedquad.methods.method import REGISTERED, Method
from fedquad.methods.registry import import_methods_of

PAPER_ORDER = [
    "fedquad",
    "fedquad-no-qd",
    "fedquad-no-ld",
    "fedlora",
    "fedra",
    "inclusivefl",
    "layersel",
    "hetlora",
]
SOURCE = """
    from fedquad.methods.aggregation import LayerwiseMean
    from fedquad.methods.method import Method

    class Nobody(Method):
        name = "nobody"
        defaults = {"patience": 2.0}

        def __init__(self, setting, patience=2.0):
            super().__init__(setting)
            self.patience = patience

        def assign(self, statuses, history):
            return [None] * len(statuses)

        def accumulator(self, global_adapter):
            return LayerwiseMean(global_adapter)
"""


@pytest.fixture(autouse=True)
def restored_registry():
    """A test may define methods; the next one does not see them."""
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module of the user's own, on the import path."""
    (tmp_path / "my_own_method.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    return "my_own_method"


def test_the_methods_of_the_paper_come_first_in_its_order():
    assert [*METHODS][: len(PAPER_ORDER)] == PAPER_ORDER
    assert [cls.label for cls in METHODS.values()][: len(PAPER_ORDER)] == [
        "FedQuad",
        "FedQuad w/o QD",
        "FedQuad w/o LD",
        "FedLoRA",
        "FedRA",
        "InclusiveFL",
        "LayerSel",
        "HetLoRA",
    ]


@pytest.mark.parametrize("name", PAPER_ORDER)
def test_defaults_are_those_of_the_constructor(name):
    parameters = [*inspect.signature(METHODS[name]).parameters.values()][1:]
    assert METHODS[name].defaults == {p.name: p.default for p in parameters}


def test_a_file_in_the_package_is_enough(tmp_path, monkeypatch):
    (tmp_path / "nobody.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    import_methods_of(methods.__path__, methods.__name__)
    assert [*METHODS] == [*PAPER_ORDER, "nobody"]


def test_a_method_that_is_defined_is_known(make_setting, make_statuses, make_history):
    class Nobody(methods.Method):
        name = "nobody-at-all"

        def assign(self, statuses, history):
            return [None] * len(statuses)

        def accumulator(self, global_adapter):
            raise AssertionError("nobody sends anything")

    method = create_method("nobody-at-all", make_setting())
    assert method.assign(make_statuses(1, 2), make_history()) == [None, None]
    assert method.label == "nobody-at-all"
    assert [*METHODS] == [*PAPER_ORDER, "nobody-at-all"]


def test_a_method_is_found_by_module_and_class(user_module, make_setting):
    method = create_method(f"{user_module}:Nobody", make_setting(), {"patience": 5})
    assert method.patience == 5
    assert find_method("nobody") is type(method)
    assert find_method("fedquad.methods.fedra:FedRA") is METHODS["fedra"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fedavg", f"one of {', '.join(PAPER_ORDER)}"),
        ("FedQuad", "one of fedquad"),
        ("no_such_module:FedAvg", "No module named 'no_such_module'"),
        (":FedAvg", "can be imported"),
        ("fedquad.methods.fedra:FedAvg", "a subclass of"),
        ("fedquad.methods.fedra:LayerwiseMean", "a subclass of"),
        ("fedquad.methods.method:Method", "a subclass of"),
    ],
)
def test_an_unknown_method_is_refused(name, message, make_setting):
    with pytest.raises(InputError, match=re.escape(message)):
        create_method(name, make_setting())


def test_a_name_stands_for_one_class():
    def define(qualified_name):
        return type(Method)("Other", (Method,), {"name": "fedra", "__qualname__": qualified_name})

    with pytest.raises(InputError, match=r"other than that of fedquad\.methods\.fedra\.FedRA"):
        define("Other")
    assert METHODS["fedra"].label == "FedRA"
    for bad in ("Fed Avg", "fed:avg", "", "fed_avg", "-fed"):
        with pytest.raises(InputError, match="lower-case words"):
            type(Method)("Other", (Method,), {"name": bad})


def test_a_notebook_cell_can_be_run_twice(make_setting):
    cell = textwrap.dedent(SOURCE)
    for _ in range(2):
        space = {"__name__": "__main__"}
        exec(cell, space)
        assert METHODS["nobody"] is space["Nobody"]
    with pytest.raises(InputError, match="nobody"):
        exec(cell, {"__name__": "elsewhere"})


def test_an_option_at_its_default_is_not_an_option(make_setting):
    assert normalised_options("inclusivefl", {"beta": 0.2}) == ()
    assert normalised_options("hetlora", {"penalty_weight": 0, "gamma": 0.5}) == (
        ("gamma", 0.5),
        ("penalty_weight", 0.0),
    )
    assert create_method("inclusivefl", make_setting(), {"beta": 1}).beta == 1


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("fedra", "beta", 0.2, "it has none"),
        ("inclusivefl", "gamma", 0.2, r"beta \(default 0\.2\)"),
        ("inclusivefl", "beta", 1.5, "from 0 to 1"),
        ("inclusivefl", "beta", float("nan"), "from 0 to 1"),
        ("hetlora", "gamma", 1.0, "between 0 and 1"),
        ("hetlora", "gamma", 0.0, "between 0 and 1"),
        ("hetlora", "penalty_weight", -1.0, ">= 0"),
        ("layersel", "balance", -0.1, ">= 0"),
        ("layersel", "balance", float("inf"), ">= 0"),
    ],
)
def test_an_option_that_is_unknown_or_out_of_range_is_refused(
    name, option, value, message, make_setting
):
    with pytest.raises(InputError, match=message):
        create_method(name, make_setting(), {option: value})


def test_a_method_without_state_refuses_another_ones(make_setting):
    method = create_method("fedra", make_setting())
    method.load_state_dict(method.state_dict())
    with pytest.raises(InputError, match="state of fedra"):
        method.load_state_dict({"kept_ranks": {}})
