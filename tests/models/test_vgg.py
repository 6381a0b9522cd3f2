"""Tests VGG-Small and LAB's network: counts, paths, and inputs of layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import activations, models
from mq_jax.activations import Activation
from tests.models import networks
from tests.models.networks import images

SIGN = Activation(activations.bi_real_sign, signed=True)
PACT = Activation(activations.pact(2), start=2.0)


def narrow(make, *args, **kwargs):
  """Makes a network with few channels."""
  net = make(*args, **kwargs)
  return net.clone(widths=(4, 6, 8), dense=(9,) * len(net.dense))


def leaves(net):
  return networks.named(networks.shapes(net, jnp.zeros((1, 32, 32, 3))))


PAIRS = [(3, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
NORMED = {f'norm{i}': width for i, (_, width) in enumerate(PAIRS, start=1)}


@pytest.mark.parametrize(
  ('make', 'dense', 'normed', 'weights'),
  [
    (models.vgg_small, {'head': (8192, 10)}, NORMED, 4656512),
    (
      models.labnet,
      {'dense1': (8192, 1024), 'dense2': (1024, 1024), 'head': (1024, 10)},
      NORMED | {'dense1_norm': 1024, 'dense2_norm': 1024, 'head_norm': 10},
      14022016,
    ),
  ],
)
def test_vgg_paths_shapes_and_counts(make, dense, normed, weights):
  found = {at: leaf.shape for at, leaf in leaves(make()).items()}
  kernels = {
    f'params/conv{i}/kernel': (3, 3, *pair)
    for i, pair in enumerate(PAIRS, start=1)
  } | {f'params/{at}/kernel': shape for at, shape in dense.items()}
  assert found == {
    **kernels,
    **({} if 'head_norm' in normed else {'params/head/bias': (10,)}),
    **{
      f'{at}/{leaf}': (width,)
      for name, width in normed.items()
      for at, leaf in (
        (f'params/{name}', 'scale'),
        (f'params/{name}', 'bias'),
        (f'batch_stats/{name}', 'mean'),
        (f'batch_stats/{name}', 'var'),
      )
    },
  }
  assert sum(np.prod(shape) for shape in kernels.values()) == weights
  assert weights == 9 * sum(a * b for a, b in PAIRS) + sum(
    a * b for a, b in dense.values()
  )


def test_vgg_activation_adds_number_to_all_layers_but_first():
  convolutions = {f'params/act{i}/number' for i in range(2, 7)}
  for make, others in (
    (models.vgg_small, {'head_act'}),
    (models.labnet, {'dense1_act', 'dense2_act', 'head_act'}),
  ):
    plain = leaves(make())
    quantized = leaves(make(activation=PACT))
    added = quantized.keys() - plain.keys()
    assert added == convolutions | {f'params/{at}/number' for at in others}
    assert {quantized[at].shape for at in added} == {()}
    assert leaves(make(activation=SIGN)) == plain


def pooled(x):
  b, h, w, c = x.shape
  return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


@pytest.mark.parametrize('activation', [None, PACT, SIGN])
@pytest.mark.parametrize(
  ('make', 'epsilon'), [(models.vgg_small, 1e-5), (models.labnet, 1e-4)]
)
def test_vgg_layer_inputs_follow_from_previous_outputs(
  x64, make, epsilon, activation
):
  """Computes the input of each layer from the output of the previous one."""
  net = narrow(make, dtype=jnp.float64, activation=activation)
  x = images((2, 8, 8, 3), np.float64)
  variables = networks.start(net, x)
  # Running variances are as small as epsilon, so that epsilon matters. Scales
  # have both signs, because max pooling does not commute with negative scales.
  stats = variables['batch_stats']
  for norm in stats.values():
    norm['var'] = norm['var'] * 1e-4
  params = variables['params']
  for at in stats:
    width = params[at]['scale'].size
    params[at]['scale'] *= jnp.asarray(np.resize([-1.0, 1.0], width))
  calls = networks.calls(net, variables, x)

  def normalised(y, at):
    (mean, var), (scale, bias) = (
      [np.asarray(tree[at][name]) for name in names]
      for tree, names in ((stats, ('mean', 'var')), (params, ('scale', 'bias')))
    )
    y = (y - mean) / np.sqrt(var + epsilon) * scale + bias
    return y if at == 'head_norm' or activation is SIGN else np.maximum(y, 0)

  def quantized(y, at):
    if activation is None:
      return y
    number = params.get(at, {}).get('number')
    numbers = () if number is None else (number,)
    return activation.function(jnp.asarray(y), *numbers)

  dense = [f'dense{i}' for i in range(1, len(net.dense) + 1)]
  chain = [f'conv{i}' for i in range(1, 7)] + dense + ['head']
  np.testing.assert_array_equal(calls['conv1'][0], x)
  for before, after in itertools.pairwise(chain):
    y = np.asarray(calls[before][1])
    if before in ('conv2', 'conv4', 'conv6'):
      y = pooled(y)
    norm = before.replace('conv', 'norm')
    y = normalised(y, norm if norm in stats else f'{before}_norm')
    act = after.replace('conv', 'act')
    y = quantized(y, act if act != after else f'{after}_act')
    if before == 'conv6':
      y = y.reshape(len(x), -1)
    np.testing.assert_allclose(calls[after][0], y, rtol=1e-9, err_msg=after)
  logits = np.asarray(calls['head'][1])
  if make is models.labnet:
    logits = normalised(logits, 'head_norm')
  np.testing.assert_allclose(calls[''][1], logits, rtol=1e-9)


@pytest.mark.parametrize(('activation', 'levels'), networks.LEVELS)
def test_labnet_layer_inputs_are_levels(activation, levels):
  net = narrow(models.labnet, activation=activation)
  x = images()
  calls = networks.calls(net, networks.start(net, x), x, train=True)
  inputs = {
    at: np.unique(x)
    for at, (x, _) in calls.items()
    if at in ('dense1', 'dense2', 'head')
    or at in [f'conv{i}' for i in range(2, 7)]
  }
  assert len(inputs) == 8
  for at, values in inputs.items():
    assert 2 <= len(values) <= levels, at
    if activation.signed:
      assert set(values) == {-1, 1}, at
  assert len(np.unique(calls['conv1'][0])) == x.size


@pytest.mark.slow
@pytest.mark.parametrize(
  ('bits', 'make'),
  [(1, models.labnet), (2, models.vgg_small), (4, models.vgg_small)],
)
def test_vgg_quantized_step_moves_all_parameters(bits, make):
  quantizer, activation = networks.SAME_BITS[bits]
  net = narrow(make, 4, activation=activation).clone(widths=(4, 6))
  loss, moves = networks.loss_after_a_step(net, quantizer, images())
  assert np.isfinite(loss)
  # Gradients reach every parameter through all quantizers.
  assert {at for at, move in moves.items() if move == 0} == set()
  assert ('act2/number' in moves) == (bits > 1)


def test_labnet_running_statistics_have_momentum_0_9():
  net, x = narrow(models.labnet), images()
  variables = networks.start(net, x)
  calls = networks.calls(net, variables, x, train=True)
  _, new = jax.jit(
    lambda v, x: net.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, x)
  np.testing.assert_allclose(
    new['batch_stats']['head_norm']['mean'],
    0.9 * variables['batch_stats']['head_norm']['mean']
    + 0.1 * np.mean(calls['head_norm'][0], axis=0),
    rtol=1e-4,
  )


@pytest.mark.parametrize(
  ('make', 'layer', 'fans'),
  [
    (models.vgg_small, 'conv6', 9 * 32),
    (models.labnet, 'conv6', 9 * (32 + 32)),
    (models.labnet, 'dense2', 100 + 100),
  ],
)
def test_vgg_init_scale_matches_paper(make, layer, fans):
  net = make()
  net = net.clone(widths=(4, 6, 32), dense=(100,) * len(net.dense))
  x = images((1, 8, 8, 3))
  kernel = jax.jit(
    lambda key: net.init(key, x, train=False)['params'][layer]['kernel']
  )(jax.random.key(0))
  if make is models.labnet:
    bound = np.sqrt(1.5 / fans)
    assert 0.99 * bound < jnp.max(jnp.abs(kernel)) <= bound
    # The distribution is uniform.
    np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.03)
  else:
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / fans), rtol=0.03)


def test_labnet_bfloat16_parameters_stay_float32():
  net, x = narrow(models.labnet, dtype=jnp.bfloat16, activation=PACT), images()
  variables = networks.start(net, x)
  calls = networks.calls(net, variables, x, train=True)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  assert calls[''][1].dtype == jnp.float32
  for at in ('conv2', 'dense1', 'head'):
    assert calls[at][0].dtype == calls[at][1].dtype == jnp.bfloat16


@pytest.mark.parametrize('make', [models.vgg_small, models.labnet])
def test_vgg_invalid_arguments_raise(make):
  with pytest.raises(ValueError, match='num_classes=0 must be'):
    make(num_classes=0)
  with pytest.raises(ValueError, match='int8 is not a floating point'):
    make(dtype=jnp.int8)
  for value in networks.NO_ACTIVATIONS:
    with pytest.raises(TypeError, match='must be a mq_jax') as error:
      make(activation=value)
    assert f'activation={value!r}' in str(error.value)


@pytest.mark.parametrize(
  ('batch', 'match'),
  [
    (np.zeros((2, 8, 8, 3), np.uint8), 'normalised .* uint8'),
    (np.zeros((2, 7, 9, 3), np.float32), 'too small.* at least 8'),
  ],
)
def test_vgg_small_invalid_images_raise(batch, match):
  with pytest.raises(ValueError, match=match):
    networks.shapes(models.vgg_small(), jnp.asarray(batch))


def test_labnet_equal_arguments_compare_equal():
  assert models.labnet(7, activation=PACT) == models.labnet(7, activation=PACT)
  assert models.labnet() != models.labnet(head_norm=False)
