"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import mmdat

FINDER = doctest.DocTestFinder()
WITH_EXAMPLES = [
    info.name
    for info in pkgutil.walk_packages(mmdat.__path__, 'mmdat.')
    if any(test.examples for test in FINDER.find(importlib.import_module(info.name)))
]


def test_examples_are_found() -> None:
    some = {'mmdat.checks.config_tree', 'mmdat.models.arch', 'mmdat.ops.deformable.api'}
    assert some <= set(WITH_EXAMPLES)


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples_give_what_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), extraglobs=dict(torch=torch))
    assert results.attempted > 0
    assert results.failed == 0
