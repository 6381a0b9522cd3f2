"""Tests `per`: each slice equals a weight that is quantized alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import methods
from mq_jax.quantizers import at_start
from tests.methods import common

QUANTIZERS = {
  'dorefa': mq_jax.dorefa(2),
  'bwn': mq_jax.bwn(),
  'twn': methods.twn(),
  'ttq': methods.ttq(threshold=0.3, optimizer=optax.sgd(0.1, momentum=0.9)),
  'lsq': methods.lsq(3, optimizer=optax.sgd(0.1)),
  'lab': methods.lab(decay=0.5),
  'slb': methods.slb(2, lambda updates: 2.0 + updates),
  'aciq': methods.aciq(2),
  'uniform': methods.uniform(3),
  'clipped_uniform': methods.clipped_uniform(2, corrected=False),
  'scaled_levels': methods.scaled_levels((-1, 0, 1)),
  'inq': methods.inq(3),
}
SHAPE = (2, 6, 4)
# Arguments of `per`, and the slices of a weight of that shape.
CASES = {
  'layers': ({'axes': 0}, [np.s_[i] for i in range(2)]),
  'channels': ({'axes': (-1,)}, [np.s_[:, :, i] for i in range(4)]),
  'groups': (
    {'axes': (2, 0), 'group_size': 3},
    [
      np.s_[i, 3 * j : 3 * j + 3, k]
      for i, j, k in itertools.product(range(2), range(2), range(4))
    ],
  ),
  'blocks': (
    {'group_size': 2, 'group_axis': 2},
    [np.s_[:, :, :2], np.s_[:, :, 2:]],
  ),
}


def everything(quantizer, w, g_hat, g_tilde):
  """Returns the results of all functions, in the axes of the weight."""
  theta, variables = at_start(quantizer, w)
  results = {}
  for name in ('first', 'second'):  # The second uses updated variables.
    w_tilde = quantizer.preprocess(theta, variables)
    w_hat = mq_jax.quantize(quantizer, theta, variables)
    g_tilde = jnp.broadcast_to(g_tilde, w_tilde.shape)
    results[name] = {
      'theta': theta,
      'w_tilde': w_tilde,
      'w_hat': w_hat,
      'codes': quantizer.codes(w_tilde, variables)[0],
      'g_ste': quantizer.straight_through(g_hat, w_tilde, variables),
      'g': quantizer.calibrate(theta, g_tilde, variables),
      'saturated': quantizer.saturated(w_tilde, variables),
    }
    if quantizer.relaxed is not None:
      results[name]['relaxed'] = quantizer.relaxed(w_tilde, variables)
    variables = quantizer.update(variables, w_tilde, w_hat, g_hat)
  return results


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('name', 'case'),
  [(name, 'groups') for name in QUANTIZERS if name not in ('bwn', 'slb')]
  + [(name, case) for name in ('bwn', 'slb') for case in CASES],
)
def test_per_any_quantizer_equals_each_slice_alone(name, case):
  options, slices = CASES[case]
  w, g_hat = common.weight(0, SHAPE), common.weight(1, SHAPE)
  # Slices of other scales, so that a scale of the leaf would differ.
  w = jnp.asarray(
    np.asarray(w) * np.array([0.1, 1])[:, None, None] * np.arange(1, 5)
  )
  quantizer = QUANTIZERS[name]
  g_tilde = g_hat[..., None] if quantizer.parametrized else g_hat
  found = jax.jit(everything, static_argnums=0)(
    mq_jax.per(quantizer, **options), w, g_hat, g_tilde
  )
  everything_alone = jax.jit(functools.partial(everything, quantizer))
  for index in slices:
    alone = everything_alone(w[index], g_hat[index], g_tilde[index])
    jax.tree.map(
      lambda ours, theirs, index=index: np.testing.assert_allclose(
        ours[index], theirs, rtol=1e-12, atol=1e-15
      ),
      found,
      alone,
    )


@pytest.mark.parametrize(
  'quantizer', [methods.lq_nets(2), methods.clipped_uniform(2)]
)
def test_per_quantizer_with_levels_per_channel_maps_other_axes_only(quantizer):
  w = jnp.asarray(common.weight(0, (3, 8, 4)), jnp.float32)
  layers = mq_jax.per(quantizer, axes=0)
  w_hat = mq_jax.quantize(layers, w, layers.init(w))
  for found, layer in zip(w_hat, w, strict=True):
    alone = mq_jax.quantize(quantizer, layer, quantizer.init(layer))
    np.testing.assert_allclose(found, alone, rtol=1e-6)
  for options in ({'axes': -1}, {'axes': 0, 'group_size': 2, 'group_axis': 2}):
    channels = mq_jax.per(quantizer, **options)
    with pytest.raises(ValueError, match='leave the last axis out of per'):
      mq_jax.quantize(channels, w, channels.init(w))


def test_per_slices_of_one_weight_raise():
  for quantizer, shape in (
    (mq_jax.per(mq_jax.bwn(), axes=(0, -1)), (4, 2)),
    (mq_jax.per(mq_jax.bwn(), axes=-1, group_size=1), (4, 2)),
    (mq_jax.per(mq_jax.bwn(), axes=-1), (1, 3)),
  ):
    with pytest.raises(ValueError, match='would have levels of its own'):
      mq_jax.quantize(quantizer, jnp.ones(shape), ())


def test_per_layers_of_other_scales_all_keep_weights_under_twn():
  w = common.weight(0, (3, 8, 8)) * np.array([0.01, 1, 100])[:, None, None]
  w = jnp.asarray(w, jnp.float32)
  shared = mq_jax.quantize(methods.twn(), w, ())
  assert not np.any(shared[:2])  # The scale of one layer erases the others.
  separate = mq_jax.quantize(mq_jax.per(methods.twn(), axes=0), w, ())
  assert np.all(np.mean(separate != 0, axis=(1, 2)) > 0.3)


def test_per_of_per_splits_further():
  w = jnp.asarray(common.weight(0, SHAPE))
  nested = mq_jax.per(mq_jax.per(mq_jax.bwn(), axes=-1, group_size=3), axes=0)
  flat = mq_jax.per(mq_jax.bwn(), axes=(0, -1), group_size=3)
  for ours, theirs in zip(nested.codes(w, ()), flat.codes(w, ()), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_per_stacked_layers_train_as_layers_of_their_own():
  keys = jax.random.split(jax.random.key(0), 3)
  w = jnp.stack(
    [
      s * jax.random.normal(k, (4, 4))
      for s, k in zip((1, 9, 0.1), keys, strict=True)
    ]
  )
  x = jax.random.normal(jax.random.key(1), (8, 4))

  def network(kernels, x):
    for kernel in kernels:
      x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2)

  def trained(params, rules, kernels_of):
    train = mq_jax.make_train_step(
      lambda params, model_state, batch, rng: (
        network(kernels_of(params), batch),
        (model_state, {}),
      ),
      rules,
      mq_jax.ste(),
      learning_rate=0.1,
    )
    state = train.init(jax.random.key(2), params, {}, x)
    for _ in range(3):
      state, _ = train.step(state, x)
    return train, state

  quantizer = methods.ttq(threshold=0.3, optimizer=optax.sgd(0.1))
  train, stacked = trained(
    {'kernel': w},
    mq_jax.per(quantizer, axes=0),
    lambda params: params['kernel'],
  )
  _, separate = trained(
    [{'kernel': layer} for layer in w],
    quantizer,
    lambda params: [layer['kernel'] for layer in params],
  )
  for i in range(3):
    np.testing.assert_allclose(
      stacked.params['kernel'][i], separate.params[i]['kernel'], rtol=1e-5
    )
    np.testing.assert_allclose(
      stacked.variables['kernel'].scales[i],
      separate.variables[f'{i}/kernel'].scales,
      rtol=1e-5,
    )
  packed = train.pack(stacked)
  np.testing.assert_array_equal(
    mq_jax.unpack(packed)['kernel'], train.quantized(stacked)['kernel']
  )
  assert packed.params['kernel'].levels.shape == (3, 1, 1, 3)
  (layer,) = mq_jax.summary(packed).layers
  assert (layer.bits, layer.used) == (2, 3)


def test_pack_slices_with_constant_levels_share_a_table():
  w = {'kernel': jnp.asarray(common.weight(0, (4, 6, 6)), jnp.float32)}
  packed = mq_jax.pack(w, mq_jax.per(mq_jax.dorefa(2), axes=0, group_size=3))
  # The file has the scale of the levels instead of a table.
  assert packed.params['kernel'].levels.shape == (1,)
  packed = mq_jax.pack(w, mq_jax.per(mq_jax.bwn(), axes=0, group_size=3))
  assert packed.params['kernel'].levels.shape == (4, 2, 1, 1)


def test_per_invalid_arguments_raise():
  with pytest.raises(TypeError, match='the function bwn, which is not called'):
    mq_jax.per(mq_jax.bwn, axes=0)
  with pytest.raises(TypeError, match=r'axis 0\.5 of per must be an integer'):
    mq_jax.per(mq_jax.bwn(), axes=(0, 0.5))
  with pytest.raises(ValueError, match='per needs axes or a group_size'):
    mq_jax.per(mq_jax.bwn())
  with pytest.raises(ValueError, match='group_size=0'):
    mq_jax.per(mq_jax.bwn(), group_size=0)
  with pytest.raises(ValueError, match='group_axis=1 of per has no effect'):
    mq_jax.per(mq_jax.bwn(), axes=0, group_axis=1)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'axes': 2}, r'kernel: The axis 2 of per does not exist .*\(4, 6\)'),
    ({'axes': (0, -2)}, r'kernel: The axes \(0, -2\) of per name one axis'),
    ({'axes': 0, 'group_size': 2}, r'The axes \(0, -2\) of per name one axis'),
    ({'group_size': 3}, 'group_size=3 of per does not divide axis -2.*of 4'),
  ],
)
def test_per_weight_of_other_shape_raises_with_its_path(options, message):
  train = mq_jax.make_train_step(
    lambda params, model_state, batch, rng: (
      jnp.sum(params['kernel']),
      (model_state, {}),
    ),
    mq_jax.per(mq_jax.bwn(), **options),
    mq_jax.ste(),
  )
  with pytest.raises(ValueError, match=message):
    train.init(jax.random.key(0), {'kernel': jnp.ones((4, 6))}, {}, ())
