"""The examples in the docstrings of `helpers` and `benchmarks`."""

import doctest
import importlib
import pkgutil

import pytest

import benchmarks
import helpers

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (helpers, benchmarks)
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    module = importlib.import_module(name)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(module, optionflags=options)
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) for module in modules for test in finder.find(module)) >= 20
