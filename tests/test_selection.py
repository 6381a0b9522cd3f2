"""Tests the rules that select the quantizer of each leaf."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mq_jax
from mq_jax import methods, selection
from tests import problem

PARAMS = {
  'conv': {'kernel': jnp.ones((3, 3, 1, 2)), 'bias': jnp.ones(2)},
  'dense': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
}
ONE, TWO = mq_jax.dorefa(1), mq_jax.dorefa(2)


def test_select_bare_quantizer_selects_kernels():
  assert selection.select(PARAMS, ONE) == {
    'conv/kernel': ONE,
    'dense/kernel': ONE,
  }


def test_select_first_match_of_full_path_wins():
  rules = [('conv/.*kernel', TWO), ('.*bias', None), ('.*', ONE)]
  assert selection.select(PARAMS, rules) == {
    'conv/kernel': TWO,
    'dense/kernel': ONE,
  }


def test_select_unmatched_leaf_keeps_full_precision():
  assert selection.select(PARAMS, [('dense/kernel', ONE)]) == {
    'dense/kernel': ONE
  }
  assert selection.select(PARAMS, [('.*', None)]) == {}


def test_select_rule_matching_part_of_path_raises():
  with pytest.raises(
    ValueError, match=r"part of conv/kernel, .* such as 'conv/kernel'"
  ):
    selection.select(PARAMS, [('kernel', ONE)])
  with pytest.raises(ValueError, match="'conv' matches only a part of conv/"):
    selection.select(PARAMS, [('conv', ONE)])
  with pytest.raises(ValueError, match=r"'kernle' matches no leaf.*dense"):
    selection.select(PARAMS, [('kernle', ONE)])


def test_selection_of_state_raises():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  with pytest.raises(TypeError, match=r'not a State: state\.params'):
    train.selection(problem.start(train))


def test_select_rule_shadowed_by_earlier_rule_raises():
  with pytest.raises(ValueError, match="'conv/kernel' matches only leaves"):
    selection.select(PARAMS, [('.*kernel', ONE), ('conv/kernel', TWO)])


@pytest.mark.parametrize(
  'params',
  [
    {'a': {'b': jnp.ones(3)}},
    {'a': {'kernel': jnp.ones(3)}},
    {'attention': {'bias': jnp.ones((2, 4))}},  # heads and their features
    {'norms': {'scale': jnp.ones((3, 4))}},  # stacked layers
    {'batch_norm': {'offset': jnp.ones((1, 4))}},  # haiku
    {'embedding': {'weight': jnp.ones((5, 4))}},  # equinox
    {'wte': {'weight': jnp.ones((5, 4))}},
    {'Embed_0': {'embedding': jnp.ones((5, 4))}},
  ],
)
def test_select_bare_quantizer_without_kernel_raises(params):
  (path,) = selection.named_leaves(params)
  with pytest.raises(ValueError, match=f'except embeddings.*are: {path}'):
    selection.select(params, ONE)


@pytest.mark.parametrize(
  'path', ['a/kernel', 'layers/0/weight', 'mlp/~/linear_0/w', 'a/kernel/value']
)
def test_is_kernel_names_of_frameworks_are_kernels(path):
  assert selection.is_kernel(path, jnp.ones((2, 2)))


def test_select_boxed_parameters_match_rules_without_box():
  model = nnx.Sequential(
    nnx.Embed(5, 4, rngs=nnx.Rngs(0)),
    nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)),
    nnx.Linear(4, 2, rngs=nnx.Rngs(0)),
  )
  params = nnx.split(model, nnx.Param, ...)[1]
  names = ['1/key', '1/out', '1/query', '1/value', '2']
  kernels = [f'layers/{name}/kernel/value' for name in names]
  assert list(selection.select(params, ONE)) == kernels
  assert list(selection.select(params, [('.*/kernel', ONE)])) == kernels
  assert list(selection.select(params, [('.*/kernel/value', ONE)])) == kernels
  initializer = nn.with_partitioning(nn.initializers.ones, (None, 'x'))
  boxed = nn.Dense(2, kernel_init=initializer).init(
    jax.random.key(0), jnp.ones((1, 2))
  )['params']
  assert list(selection.select(boxed, ONE)) == ['kernel/value']
  assert list(selection.select(boxed, [('kernel', TWO)])) == ['kernel/value']


def test_selection_prints_every_leaf_and_its_quantizer():
  found = selection.selection(PARAMS, [('conv/kernel', ONE)])
  assert found.selected == {'conv/kernel': ONE}
  lines = str(found).splitlines()
  assert len(lines) == 4
  assert lines[0].split() == ['conv/bias', '(2,)', 'full', 'precision']
  assert lines[1].startswith('conv/kernel   (3, 3, 1, 2)  ')
  assert str(ONE) in lines[1]


@pytest.mark.parametrize(
  'rules', ['.*', 3, [ONE], [('.*', 'dorefa')], [('.*', ONE, TWO)]]
)
def test_select_rules_of_wrong_type_raise(rules):
  with pytest.raises(TypeError, match='sequence of'):
    selection.select(PARAMS, rules)


def test_select_without_rules_raises():
  with pytest.raises(
    ValueError, match=r"full precision, pass \[\('\.\*', None\)"
  ):
    selection.select(PARAMS, [])


@pytest.mark.parametrize(
  'make',
  [
    lambda rules: methods.clip_weights(rules, bound=0.5),
    lambda rules: methods.proximal_step(rules, lambda updates: 0.1),
    lambda rules: methods.freeze_portions(rules, (1.0,), every=1),
    lambda rules: methods.add_elq_penalties(
      rules, perturbation=0.1, approximation=0.1
    ),
    lambda rules: methods.admm(rules, every=1),
    lambda rules: methods.freeze_oscillating(rules, threshold=0.1),
    lambda rules: methods.dampen(rules, strength=0.1),
    lambda rules: methods.scale_by_position(rules, strength=2.0),
  ],
)
def test_transformations_keep_the_rules_they_were_given(make):
  rules = [('dense/kernel', mq_jax.methods.binary())]
  moves = jax.tree.map(lambda w: jnp.full(w.shape, 0.7), PARAMS)
  params = jax.tree.map(lambda w: jnp.full(w.shape, 0.3), PARAMS)
  made = [make(list(rules)), make(rules)]
  rules.append(('conv/kernel', mq_jax.methods.binary()))
  kept, other = (t.update(moves, t.init(params), params)[0] for t in made)
  jax.tree.map(np.testing.assert_array_equal, kept, other)
  with pytest.raises(ValueError, match='there is no pair'):
    make([])


def test_select_invalid_regex_raises():
  with pytest.raises(
    ValueError, match=r"'\(' is not a valid regular expression"
  ):
    selection.select(PARAMS, [('(', ONE)])


def test_select_integer_leaf_raises():
  with pytest.raises(TypeError, match='kernel has dtype int32'):
    selection.select({'kernel': jnp.ones((2, 2), jnp.int32)}, ONE)


def test_named_leaves_duplicate_path_raises():
  with pytest.raises(ValueError, match='same path'):
    selection.named_leaves({'a/b': jnp.ones(1), 'a': {'b': jnp.ones(1)}})


def test_replace_keeps_other_leaves():
  new = selection.replace(PARAMS, {'dense/kernel': jnp.zeros((2, 2))})
  np.testing.assert_array_equal(new['dense']['kernel'], jnp.zeros((2, 2)))
  assert new['conv'] is not PARAMS['conv']
  assert new['conv']['kernel'] is PARAMS['conv']['kernel']


def test_named_leaves_is_leaf_keeps_nodes():
  tree = {'a': {'b': (1, 2)}, 'c': 3}
  is_leaf = lambda node: isinstance(node, tuple)  # noqa: E731
  assert selection.named_leaves(tree, is_leaf) == {'a/b': (1, 2), 'c': 3}
  assert selection.named_leaves(tree) == {'a/b/0': 1, 'a/b/1': 2, 'c': 3}


def test_nested_inverts_named_leaves():
  leaves = {'a/b/c': 1, 'd': 2, 'a/e': {'f': 3}, 'a/b/g': 4}
  nested = {'a': {'b': {'c': 1, 'g': 4}, 'e': {'f': 3}}, 'd': 2}
  assert selection.nested(leaves) == nested
  assert selection.nested({}) == {}
  assert selection.nested(selection.named_leaves(PARAMS)) == PARAMS


@pytest.mark.parametrize(
  ('leaves', 'match'),
  [
    ({'a': 1, 'a/b': 2}, "'a/b' continues another path"),
    ({'a/b/c': 1, 'a': 2}, "'a' is a prefix of another path"),
    ({'a/b': 1, 'a/b/c/d': 2}, "'a/b/c/d' continues another path"),
  ],
)
def test_nested_path_that_is_prefix_raises(leaves, match):
  with pytest.raises(ValueError, match=match):
    selection.nested(leaves)
