"""Tests batch normalisation against its closed form in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax.models import BatchNorm, batch_statistics

F64 = np.float64


def start(module, x):
  return module.init(jax.random.key(0), x, train=False)


def train(module, variables, x):
  y, stats = module.apply(variables, x, train=True, mutable=['batch_stats'])
  return y, {**variables, **stats}


def batches(count, shape=(5, 3, 4, 2)):
  rng = np.random.default_rng(3)
  return [rng.normal(2.0, 3.0, shape) for _ in range(count)]


def test_batch_norm_one_step_matches_hand_computation():
  x = jnp.array([[1.0], [2.0], [6.0]])
  module = BatchNorm(epsilon=0.0)
  y, variables = train(module, start(module, x), x)
  # The mean is 3, the deviations are -2, -1 and 3. Their squares add up to 14,
  # so the variance is 14/3, or 7 if unbiased.
  np.testing.assert_allclose(
    y[:, 0], np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3), rtol=1e-6
  )
  stats = variables['batch_stats']
  np.testing.assert_allclose(stats['mean'], [0.1 * 3.0], rtol=1e-6)
  np.testing.assert_allclose(stats['var'], [0.9 * 1.0 + 0.1 * 7.0], rtol=1e-6)


def test_batch_norm_several_steps_match_closed_form(x64):
  module = BatchNorm(dtype=jnp.float64, momentum=0.8, epsilon=1e-3)
  data = batches(4)
  variables = start(module, jnp.asarray(data[0]))
  scale, bias = np.array([0.5, -2.0]), np.array([3.0, 0.25])
  variables['params'] = {'scale': jnp.asarray(scale), 'bias': jnp.asarray(bias)}
  count = 5 * 3 * 4
  mean, var = np.zeros(2), np.ones(2)
  for x in data:
    y, variables = train(module, variables, jnp.asarray(x))
    flat = x.reshape(-1, 2)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    mean = 0.8 * mean + 0.2 * flat.mean(0)
    var = 0.8 * var + 0.2 * ((flat - flat.mean(0)) ** 2).sum(0) / (count - 1)
  stats = variables['batch_stats']
  assert stats['var'].dtype == jnp.float64
  np.testing.assert_allclose(stats['mean'], mean, rtol=1e-12)
  np.testing.assert_allclose(stats['var'], var, rtol=1e-12)

  y = module.apply(variables, jnp.asarray(data[0]), train=False)
  expected = (data[0] - mean) / np.sqrt(var + 1e-3) * scale + bias
  np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_gradient_matches_closed_form(x64):
  module = BatchNorm(dtype=jnp.float64)
  x, weight = batches(2, (7, 2))
  variables = start(module, jnp.asarray(x))

  @jax.jit
  def gradient(x):
    return jax.grad(lambda x: jnp.sum(train(module, variables, x)[0] * weight))(
      x
    )

  deviation = np.sqrt(x.var(0) + 1e-5)
  normal = (x - x.mean(0)) / deviation
  expected = (
    weight - weight.mean(0) - normal * (weight * normal).mean(0)
  ) / deviation
  np.testing.assert_allclose(gradient(x), expected, rtol=1e-9, atol=1e-12)


def test_batch_norm_float32_large_mean_keeps_variance():
  # Here the error of E[x²] − E[x]² in float32 exceeds the variance itself.
  x = (4096 + batches(1, (4096, 1))[0] / 3).astype(np.float32)
  module = BatchNorm(momentum=0.0)
  _, variables = train(module, start(module, jnp.asarray(x)), jnp.asarray(x))
  np.testing.assert_allclose(
    variables['batch_stats']['var'], x.astype(F64).var(0, ddof=1), rtol=1e-4
  )


def test_batch_norm_bfloat16_normalises_in_float32():
  # 256 + 1 rounds to 256 in bfloat16, so a sum in bfloat16 would lose the ones.
  x = jnp.tile(jnp.array([[1.0], [2.0]], jnp.bfloat16), (4096, 1))
  module = BatchNorm(dtype=jnp.bfloat16, momentum=0.0, epsilon=0.0)
  y, variables = train(module, start(module, x), x)
  assert y.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  np.testing.assert_array_equal(y[:2, 0], [-1.0, 1.0])
  np.testing.assert_allclose(variables['batch_stats']['mean'], [1.5])
  np.testing.assert_allclose(
    variables['batch_stats']['var'], [0.25 * 8192 / 8191], rtol=1e-6
  )


def test_batch_norm_init_and_evaluation_keep_statistics():
  x = jnp.asarray(batches(1)[0], jnp.float32)
  for mode in (False, True):
    stats = BatchNorm().init(jax.random.key(0), x, train=mode)['batch_stats']
    np.testing.assert_array_equal(stats['mean'], [0, 0])
    np.testing.assert_array_equal(stats['var'], [1, 1])
  variables = start(BatchNorm(), x)
  y, changed = BatchNorm().apply(
    variables, x, train=False, mutable=['batch_stats']
  )
  np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
  np.testing.assert_array_equal(changed['batch_stats']['mean'], [0, 0])


def test_batch_norm_one_value_per_channel_raises():
  module = BatchNorm()
  x = jnp.ones((1, 1, 1, 3))
  variables = start(module, x)
  with pytest.raises(ValueError, match=r'1 value per channel.*larger batches'):
    train(module, variables, x)
  assert module.apply(variables, x, train=False).shape == x.shape


@pytest.mark.parametrize('with_shortcut', [False, True])
@pytest.mark.parametrize('relu', [False, True])
def test_batch_norm_backward_rule_matches_autodiff(x64, relu, with_shortcut):
  module = BatchNorm(dtype=jnp.float64, epsilon=1e-3)
  x, shortcut, weight = (jnp.asarray(b) for b in batches(3))
  params = {'scale': jnp.array([0.5, -2.0]), 'bias': jnp.array([0.3, 1.0])}
  stats = start(module, x)['batch_stats']
  arguments = params, x, *([shortcut] if with_shortcut else [])

  def score(y, stats):
    # The score includes the derivative through the running statistics.
    return (
      jnp.sum(jnp.sin(y) * weight)
      + jnp.sum(jnp.exp(stats['mean']))
      + jnp.sum(jnp.cos(stats['var']))
    )

  @jax.jit
  def custom(params, x, shortcut=None):
    y, new = module.apply(
      {'params': params, 'batch_stats': stats},
      x,
      train=True,
      shortcut=shortcut,
      relu=relu,
      mutable=['batch_stats'],
    )
    return score(y, new['batch_stats'])

  def plain(params, x, shortcut=None):
    flat = x.reshape(-1, 2)
    mean, var = flat.mean(0), flat.var(0)
    flat = flat - mean[None]
    flat = flat * (params['scale'] / jnp.sqrt(var + 1e-3))[None]
    y = (flat + params['bias'][None]).reshape(x.shape)
    if shortcut is not None:
      y = y + shortcut
    y = jnp.where(y > 0, y, 0) if relu else y
    unbiased = var * 60 / 59
    return score(y, {'mean': 0.1 * mean, 'var': 0.9 + 0.1 * unbiased})

  places = tuple(range(len(arguments)))
  value, gradients = jax.value_and_grad(custom, places)(*arguments)
  expected, expected_gradients = jax.value_and_grad(plain, places)(*arguments)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
    gradients,
    expected_gradients,
  )


def test_batch_norm_infinite_value_gives_non_finite_output():
  x = jnp.asarray(batches(1)[0], jnp.float32).at[0, 0, 0, 1].set(jnp.inf)
  y, variables = train(BatchNorm(), start(BatchNorm(), x), x)
  assert np.isfinite(y[..., 0]).all()
  assert np.isnan(y[..., 1]).all()
  assert not np.isfinite(variables['batch_stats']['mean'][1])


def test_batch_statistics_ignore_running_statistics(x64):
  del x64
  net = BatchNorm(jnp.float64)
  x = jnp.asarray(np.random.default_rng(3).normal(2.0, 3.0, (5, 4, 6)))
  variables = net.init(jax.random.key(0), x, train=False)
  old = jax.tree.map(lambda leaf: leaf + 7.0, variables['batch_stats'])
  stats = batch_statistics(net, variables['params'], old, x)
  flat = np.asarray(x).reshape(-1, 6)
  np.testing.assert_allclose(stats['mean'], flat.mean(0), rtol=1e-12)
  np.testing.assert_allclose(stats['var'], flat.var(0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize('folded', [False, True])
def test_batch_norm_relu6_gradient_is_one_strictly_inside(folded):
  net = BatchNorm(epsilon=0.0)
  x = jnp.array([[-1.0], [0.0], [1e-3], [5.9], [6.0], [7.0], [jnp.nan]])
  variables = start(net, x)
  if folded:
    variables = {'params': {'scale': jnp.ones(1), 'shift': jnp.zeros(1)}}

  def clipped(x):
    return net.apply(variables, x, train=False, relu=True, top=6.0)

  y, pullback = jax.vjp(clipped, x)
  expected = np.array([0, 0, 1e-3, 5.9, 6, 6, np.nan], np.float32)
  np.testing.assert_array_equal(y[:, 0], expected)
  (gradient,) = pullback(jnp.ones_like(y))
  np.testing.assert_array_equal(gradient[:6, 0], [0, 0, 1, 1, 0, 0])


def test_batch_norm_relu6_in_training_is_clip_of_sum(x64):
  net = BatchNorm(dtype=jnp.float64)
  x, shortcut, weight = map(jnp.asarray, batches(3, (5, 4, 2)))
  variables = start(net, x)

  def outcome(x, shortcut, **options):
    y, _ = net.apply(
      variables,
      x,
      train=True,
      mutable=['batch_stats'],
      shortcut=shortcut,
      **options,
    )
    return y if options else jax.nn.relu6(y)

  y, pullback = jax.vjp(
    lambda *inputs: outcome(*inputs, relu=True, top=6.0), x, shortcut
  )
  expected, expected_pullback = jax.vjp(outcome, x, shortcut)
  # Some values are below 0, some inside, some above 6.
  assert {0.0, 6.0} < set(np.unique(y))
  np.testing.assert_array_equal(y, expected)
  for ours, theirs in zip(
    pullback(weight), expected_pullback(weight), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
