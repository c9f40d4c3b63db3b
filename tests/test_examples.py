"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import mmdat.checkpoints
import mmdat.models
import mmdat.ops

MODULES = [
    info.name
    for package in (mmdat.ops, mmdat.checkpoints, mmdat.models)
    for info in pkgutil.walk_packages(package.__path__, f'{package.__name__}.')
]


@pytest.mark.parametrize('name', MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=dict(torch=torch))
    assert results.failed == 0
