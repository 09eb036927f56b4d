"""A wrong parameter is one sentence before any work."""

import pytest

from helpers import parameters

RULES = {
    "SOURCE": str,
    "EPOCHS": (int, 1, 500),
    "DROPOUT": (float, 0.0, 0.9),
    "REQUIRE_GPU": bool,
    "RATES": list,
    "MODE": {"fast", "full"},
    "PICTURES": (int, 1, None),
}
GOOD = {"SOURCE": "", "EPOCHS": 3, "DROPOUT": 0.5, "REQUIRE_GPU": False, "RATES": [1e-3], "MODE": "fast",
        "PICTURES": 10}  # fmt: skip


def test_good_values_come_back_in_the_order_of_the_rules():
    assert parameters.check({**GOOD, "np": 1, "X": 2, "_OH_": 3, "__name__": "x"}, **RULES) == GOOD


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("EPOCHS", 0, "EPOCHS is 0: it must be from 1 to 500."),
        ("EPOCHS", "3", r"EPOCHS is '3' \(str\): it must be a whole number."),
        ("EPOCHS", 3.0, "it must be a whole number"),
        ("EPOCHS", True, "it must be a whole number"),
        ("DROPOUT", 0.95, "it must be from 0.0 to 0.9"),
        ("DROPOUT", float("nan"), "it must be a finite number"),
        ("REQUIRE_GPU", 1, "it must be True or False"),
        ("SOURCE", 7, "it must be a text in quotes"),
        ("MODE", "slow", "MODE is 'slow': it must be one of 'fast', 'full'."),
        ("PICTURES", 0, "PICTURES is 0: it must be at least 1."),
        ("EPOCH", 3, "no parameter EPOCH: did you mean EPOCHS"),
        ("WXYZ", 3, "no parameter WXYZ: it knows SOURCE, EPOCHS"),
    ],
)
def test_a_wrong_value_or_name_is_named_with_what_it_should_be(name, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        parameters.check({**GOOD, name: value}, **RULES)


def test_a_parameter_that_was_never_set_asks_for_its_cell():
    with pytest.raises(ValueError, match="EPOCHS is not set: run the cell tagged `parameters`"):
        parameters.check({"SOURCE": ""}, SOURCE=str, EPOCHS=int)


LISTS = {"RULES": ["sgd", "adam", "lion"], "RATES": [float, 1e-6, 10.0]}


def test_lists_are_checked_entry_by_entry():
    assert parameters.check({"RULES": ["lion", "sgd"], "RATES": [1, 0.1]}, **LISTS) == {
        "RULES": ["lion", "sgd"],
        "RATES": [1.0, 0.1],
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RULES": ["adma"]}, r"An entry of RULES is 'adma': it must be one of 'adam', .* \(did you mean 'adam'\?\)"),
        ({"RULES": []}, r"RULES is \[\]: it must be a list in square brackets, with at least one entry"),
        ({"RULES": "adam"}, "RULES is 'adam': it must be a list"),
        ({"RULES": ["sgd", "sgd"]}, "each entry may stand there once"),
        ({"RATES": [0.1, 0.0]}, "An entry of RATES is 0.0: it must be from 1e-06 to 10.0"),
        ({"RATES": [-1.0]}, "An entry of RATES is -1.0"),
        ({"RATES": ["0.1"]}, r"An entry of RATES is '0.1' \(str\): it must be a number"),
        ({"RATES": [float("nan")]}, "must be a finite number"),
    ],
)
def test_a_wrong_entry_of_a_list_is_one_sentence(changed, message):
    with pytest.raises(ValueError, match=message):
        parameters.check({"RULES": ["sgd"], "RATES": [0.1], **changed}, **LISTS)
