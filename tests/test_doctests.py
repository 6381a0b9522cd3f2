"""Runs the examples in the docstrings of the library."""

import doctest
import importlib
import pkgutil

import pytest

import mq_jax

# The fewest examples that all modules together must have.
FEWEST = 20


def modules():
  found = pkgutil.walk_packages(mq_jax.__path__, 'mq_jax.')
  return [importlib.import_module(module.name) for module in found]


@pytest.mark.slow
def test_examples_of_docstrings_print_what_they_show():
  # A docstring of the library names the library as its users do.
  results = [
    doctest.testmod(module, extraglobs={'mq_jax': mq_jax})
    for module in modules()
  ]
  assert sum(result.failed for result in results) == 0
  assert sum(result.attempted for result in results) >= FEWEST
