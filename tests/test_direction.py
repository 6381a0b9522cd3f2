"""Tests the checks of the direction of optax transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import direction, methods
from tests import problem

COMPLETE = {
  'sgd': lambda: optax.sgd(0.1),
  'momentum': lambda: optax.sgd(0.1, 0.9, nesterov=True),
  'adam': lambda: optax.adam(1e-2),
  'adamw': lambda: optax.adamw(1e-2),
  'lion': lambda: optax.lion(1e-3),
  'muon': lambda: optax.contrib.muon(1e-2),
  'adafactor': lambda: optax.adafactor(1e-2),
  'rprop': lambda: optax.rprop(1e-2),
  'rmsprop': lambda: optax.rmsprop(1e-2),
  'lamb': lambda: optax.lamb(1e-2),
  'noisy_sgd': lambda: optax.noisy_sgd(1e-2, key=0),
  'warm-up': lambda: optax.adam(optax.linear_schedule(0, 1e-2, 10)),
  'multi steps': lambda: optax.MultiSteps(
    optax.adam(1e-2), 4
  ).gradient_transformation(),
}
GRADIENTS = {
  'identity': lambda: optax.identity(),
  'adam': lambda: optax.scale_by_adam(),
  'adam with decay': lambda: optax.chain(
    optax.scale_by_adam(), optax.add_decayed_weights(0.5)
  ),
  'momentum': lambda: optax.trace(0.9),
  'lion': lambda: optax.scale_by_lion(),
  'rms': lambda: optax.scale_by_factored_rms(),
  'clipped': lambda: optax.chain(optax.clip_by_global_norm(1.0)),
  'noise': lambda: optax.add_noise(0.1, 0.5, 0),
  'trust ratio': lambda: optax.chain(
    optax.scale_by_adam(), optax.scale_by_trust_ratio()
  ),
}


def make(**options):
  return problem.make(mq_jax.bwn(), mq_jax.ste(), **options)


@pytest.mark.parametrize('name', COMPLETE)
@pytest.mark.parametrize('estimator', [mq_jax.ste(), mq_jax.fc_grad(hidden=3)])
def test_make_train_step_complete_optimizer_as_refine_raises(name, estimator):
  with pytest.raises(ValueError, match='refine'):
    problem.make(mq_jax.bwn(), estimator, refine=COMPLETE[name]())


@pytest.mark.parametrize('name', GRADIENTS)
def test_make_train_step_gradient_transformation_is_valid(name):
  train = problem.make(
    mq_jax.bwn(), mq_jax.fc_grad(hidden=3), refine=GRADIENTS[name]()
  )
  problem.start(train)


@pytest.mark.parametrize('name', COMPLETE)
def test_make_train_step_complete_meta_optimizer_is_valid(name):
  problem.make(
    mq_jax.bwn(), mq_jax.fc_grad(hidden=3), meta_optimizer=COMPLETE[name]()
  )


@pytest.mark.parametrize(
  'name', sorted(set(GRADIENTS) - {'identity', 'clipped'})
)
def test_make_train_step_bare_meta_optimizer_raises(name):
  with pytest.raises(ValueError, match='meta_optimizer moves φ along'):
    make(meta_optimizer=GRADIENTS[name]())


def test_make_train_step_optimizer_as_post_update_raises():
  with pytest.raises(ValueError, match='post_update turns the move of'):
    make(post_update=optax.adam(1e-2))


def test_make_train_step_weight_decay_as_post_update_raises():
  decay = optax.add_decayed_weights

  def is_matrix(tree):
    return jax.tree.map(lambda w: w.ndim > 1, tree)

  for post_update in (decay(1e-4), decay(1e-4, is_matrix)):
    with pytest.raises(ValueError, match=r' away .* decay belongs in refine'):
      make(post_update=post_update)
  # A decoupled decay has a negative factor, and a pull is not proportional.
  make(post_update=optax.add_decayed_weights(-1e-4))
  make(
    post_update=optax.stateless(
      lambda moves, w: jax.tree.map(lambda m, x: m + jnp.sign(x), moves, w)
    )
  )
  for size in (jnp.linalg.norm, lambda w: jnp.max(jnp.abs(w)), jnp.std):
    make(
      post_update=optax.stateless(
        lambda moves, params, size=size: jax.tree.map(
          lambda m, w: (w + m) / size(w + m) - w, moves, params
        )
      )
    )


@pytest.mark.parametrize(
  'refine',
  [
    optax.set_to_zero(),
    optax.MultiSteps(optax.scale_by_adam(), 3).gradient_transformation(),
    optax.scale_by_schedule(optax.linear_schedule(0, 1, 10)),
  ],
)
def test_make_train_step_refine_without_move_raises_only_for_phi(refine):
  make(refine=refine)
  with pytest.raises(ValueError, match='average the loss of several'):
    problem.make(mq_jax.bwn(), mq_jax.fc_grad(hidden=3), refine=refine)


def by_path(transformations):
  """Returns a transformation that accepts only the parameters of `problem`."""
  labels = {
    path: next((k for k in transformations if k and k in path), '')
    for path in mq_jax.selection.named_leaves(problem.params())
  }
  tree = mq_jax.selection.replace(problem.params(), labels)
  return optax.partition(transformations, tree)


def test_init_complete_optimizer_of_one_layer_raises():
  refine = by_path({'': optax.identity(), 'kernel': optax.adam(0.1)})
  train = make(refine=refine)
  with pytest.raises(
    ValueError, match='refine turns the gradient of first/kernel'
  ):
    problem.start(train)


def test_make_train_step_centred_gradients_are_valid():
  """They are 0 if all gradients of a row are equal."""
  problem.make(
    mq_jax.bwn(), mq_jax.fc_grad(hidden=3), refine=optax.centralize()
  )


def test_cosines_of_one_array_are_checked():
  """The path of parameters that are one array is empty."""
  for transformation, check in (
    (optax.sgd(0.1), direction.check_refine),
    (optax.sgd(0.1), direction.check_post_update),
    (
      optax.identity(),
      lambda cosine: direction.check_descends('optimizer', 's', cosine),
    ),
  ):
    cosine = direction.cosines(transformation, jnp.full(2, 0.3))
    with pytest.raises(ValueError, match='the loss would grow'):
      check(cosine)


def test_init_frozen_quantized_layer_raises_only_for_phi():
  refine = by_path({'': optax.identity(), 'kernel': optax.set_to_zero()})
  problem.start(make(refine=refine))
  for estimator in (
    mq_jax.fc_grad(hidden=3),
    mq_jax.per_layer(mq_jax.fc_grad(hidden=3)),
  ):
    train = problem.make(mq_jax.bwn(), estimator, refine=refine)
    with pytest.raises(ValueError, match='refine does not move first/kernel'):
      problem.start(train)


def test_init_frozen_bias_is_valid():
  refine = by_path({'': optax.identity(), 'bias': optax.set_to_zero()})
  train = problem.make(mq_jax.bwn(), mq_jax.fc_grad(hidden=3), refine=refine)
  problem.start(train)


@pytest.mark.parametrize('name', ['refine', 'post_update', 'meta_optimizer'])
@pytest.mark.parametrize(
  ('value', 'remedy'),
  [
    (optax.scale_by_adam, 'call the function that makes it'),
    (0.1, r'optax\.scale_by_adam\(\)'),
    ('adam', r'optax\.scale_by_adam\(\)'),
    (None, r'optax\.scale_by_adam\(\)'),
  ],
)
def test_make_train_step_other_type_raises(name, value, remedy):
  with pytest.raises(TypeError, match=f'{name} must be.*{remedy}'):
    make(**{name: value})


def test_init_under_jit_equals_init():
  train = make(refine=optax.scale_by_adam())
  arguments = (
    problem.params(),
    problem.model_state(),
    next(problem.batches(1)),
  )
  state = jax.jit(train.init)(jax.random.key(0), *arguments)
  assert jax.tree.all(
    jax.tree.map(jnp.allclose, state.params, problem.start(train).params)
  )


TRAINED = [
  lambda optimizer: methods.lsq(2, optimizer=optimizer),
  lambda optimizer: methods.ttq(optimizer=optimizer),
]


@pytest.mark.parametrize('make_quantizer', TRAINED)
@pytest.mark.parametrize('name', [*COMPLETE, 'line search'])
def test_trained_levels_complete_optimizer_is_valid(make_quantizer, name):
  # The update of a line search needs the loss: nothing is known of it.
  complete = COMPLETE | {'line search': optax.lbfgs}
  make_quantizer(complete[name]()).init(jnp.ones((2, 3)))


@pytest.mark.parametrize('make_quantizer', TRAINED)
def test_trained_levels_wrong_optimizer_raises(make_quantizer):
  quantizer = make_quantizer(optax.scale_by_adam())
  with pytest.raises(ValueError, match=r'optimizer moves .* along'):
    quantizer.init(jnp.ones((2, 3)))
  with pytest.raises(ValueError, match=r'kernel: optimizer moves .* along'):
    problem.start(problem.make(quantizer, mq_jax.ste()))
  with pytest.raises(TypeError, match='call the function that makes it'):
    make_quantizer(optax.sgd)
  with pytest.raises(TypeError, match='optimizer must be'):
    make_quantizer(0.1)


@pytest.mark.parametrize('make_quantizer', TRAINED)
def test_trained_levels_under_jit_and_vmap(make_quantizer):
  w = jnp.linspace(-1, 1, 6).reshape(2, 3)

  def first(rate):
    return make_quantizer(optax.sgd(rate)).init(w)

  expected = jax.tree.leaves(first(0.1))
  rates = jnp.array([0.1, 0.2])
  for leaves in (jax.jit(first)(0.1), jax.vmap(first, axis_size=2)(rates)):
    for found, leaf in zip(jax.tree.leaves(leaves), expected, strict=True):
      np.testing.assert_allclose(found, np.broadcast_to(leaf, found.shape))
