"""Which leaf gets which quantizer."""

import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import selection

PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 1, 2)), 'bias': jnp.ones(2)},
  'dense': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
}
ONE, TWO = mq_jax.dorefa(1), mq_jax.dorefa(2)


def test_a_bare_quantizer_takes_leaves_of_two_dimensions():
  assert selection.select(PARAMS, ONE) == {
    'conv/kernel': ONE,
    'dense/kernel': ONE,
  }


def test_the_first_match_of_the_whole_path_wins():
  rules = [('conv/.*kernel', TWO), ('.*bias', None), ('.*', ONE)]
  assert selection.select(PARAMS, rules) == {
    'conv/kernel': TWO,
    'dense/kernel': ONE,
  }


def test_what_matches_no_rule_keeps_full_precision():
  assert selection.select(PARAMS, [('dense/kernel', ONE)]) == {
    'dense/kernel': ONE
  }
  assert selection.select(PARAMS, [('.*', None)]) == {}


def test_a_part_of_a_path_is_no_match():
  with pytest.raises(ValueError, match=r"'kernel' matches no leaf.*dense"):
    selection.select(PARAMS, [('kernel', ONE)])


def test_a_rule_behind_a_wider_one_is_refused():
  with pytest.raises(ValueError, match="'conv/kernel' matches only leaves"):
    selection.select(PARAMS, [('.*kernel', ONE), ('conv/kernel', TWO)])


def test_nothing_to_quantize():
  with pytest.raises(ValueError, match=r'two or more dimensions.*a/b'):
    selection.select({'a': {'b': jnp.ones(3)}}, ONE)


@pytest.mark.parametrize(
  'rules', ['.*', 3, [ONE], [('.*', 'dorefa')], [('.*', ONE, TWO)]]
)
def test_rules_of_the_wrong_kind(rules):
  with pytest.raises(TypeError, match='sequence of'):
    selection.select(PARAMS, rules)


def test_a_broken_regex_is_named():
  with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
    selection.select(PARAMS, [('(', ONE)])


def test_integer_leaves_are_refused():
  with pytest.raises(TypeError, match='table has dtype int32'):
    selection.select({'table': jnp.ones((2, 2), jnp.int32)}, ONE)


def test_two_leaves_of_one_path_are_refused():
  with pytest.raises(ValueError, match='same path'):
    selection.named_leaves({'a/b': jnp.ones(1), 'a': {'b': jnp.ones(1)}})


def test_replace_keeps_all_else():
  new = selection.replace(PARAMS, {'dense/kernel': jnp.zeros((2, 2))})
  np.testing.assert_array_equal(new['dense']['kernel'], jnp.zeros((2, 2)))
  assert new['conv'] is not PARAMS['conv']
  assert new['conv']['kernel'] is PARAMS['conv']['kernel']


def test_leaves_may_be_whole_nodes():
  tree = {'a': {'b': (1, 2)}, 'c': 3}
  is_leaf = lambda node: isinstance(node, tuple)  # noqa: E731
  assert selection.named_leaves(tree, is_leaf) == {'a/b': (1, 2), 'c': 3}
  assert selection.named_leaves(tree) == {'a/b/0': 1, 'a/b/1': 2, 'c': 3}


def test_nested_dicts_from_paths():
  leaves = {'a/b/c': 1, 'd': 2, 'a/e': {'f': 3}, 'a/b/g': 4}
  nested = {'a': {'b': {'c': 1, 'g': 4}, 'e': {'f': 3}}, 'd': 2}
  assert selection.nested(leaves) == nested
  assert selection.nested({}) == {}
  assert selection.nested(selection.named_leaves(PARAMS)) == PARAMS


@pytest.mark.parametrize(
  ('leaves', 'match'),
  [
    ({'a': 1, 'a/b': 2}, "'a/b' goes on where another path ends"),
    ({'a/b/c': 1, 'a': 2}, "'a' ends where another path goes on"),
    ({'a/b': 1, 'a/b/c/d': 2}, "'a/b/c/d' goes on"),
  ],
)
def test_paths_that_exclude_each_other(leaves, match):
  with pytest.raises(ValueError, match=match):
    selection.nested(leaves)
