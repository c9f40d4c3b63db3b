"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import mmdat

MODULES = [info.name for info in pkgutil.walk_packages(mmdat.__path__, 'mmdat.')]


@pytest.mark.parametrize('name', MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=dict(torch=torch))
    assert results.failed == 0
