"""Tests MobileNetV2; test_torchvision.py compares its logits to torchvision."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mq_jax import activations, models
from mq_jax.activations import Activation
from mq_jax.models import mobilenet
from tests.models import make_torch_reference, networks
from tests.models.networks import images, start

SIGN = Activation(activations.sign, signed=True, binary=True)
DOREFA = Activation(activations.dorefa_activation(2))


def leaves(**options):
  net = models.mobilenet_v2(**options)
  return networks.named(networks.shapes(net, jnp.zeros((1, 9, 9, 3))))


def block(expansion=6, features=4, stride=1, activation=None, **options):
  fields = {'padding': 'torch', 'count_bits': False, 'dtype': jnp.float32}
  return mobilenet._Block(
    expansion=expansion,
    features=features,
    stride=stride,
    activation=activation,
    **fields | options,
  )


@pytest.mark.parametrize('width', [1.0, *make_torch_reference.WIDTHS])
def test_mobilenet_parameter_count_is_that_of_torchvision(width):
  found = json.loads(make_torch_reference.PATH.read_text())['parameters']
  name = 'mobilenet_v2' if width == 1 else f'mobilenet_v2 {width}'
  parameters = [
    leaf.size
    for path, leaf in leaves(width=width).items()
    if path.startswith('params/')
  ]
  assert sum(parameters) == found[name]
  if width == 1:
    assert sum(parameters) == 3_504_872
    assert '3,504,872 parameters' in models.mobilenet_v2.__doc__


def test_mobilenet_paths_and_shapes():
  found = leaves(num_classes=7)
  expected = {
    'params/stem/kernel': (3, 3, 3, 32),
    'params/stem_norm/scale': (32,),
    'params/block0/depthwise/kernel': (3, 3, 1, 32),
    'params/block0/project/kernel': (1, 1, 32, 16),
    'params/block1/expand/kernel': (1, 1, 16, 96),
    'params/block1/expand_norm/bias': (96,),
    'params/block16/project/kernel': (1, 1, 960, 320),
    'batch_stats/block16/project_norm/var': (320,),
    'params/last/kernel': (1, 1, 320, 1280),
    'params/head/kernel': (1280, 7),
    'params/head/bias': (7,),
  }
  assert {path: found[path].shape for path in expected} == expected
  assert 'params/block0/expand/kernel' not in found
  assert 'params/head/bias' not in leaves(head_norm=True)
  # The last convolution is not narrower than that of width 1.
  assert leaves(width=0.35)['params/last/kernel'].shape == (1, 1, 112, 1280)


@pytest.mark.parametrize(
  ('padding', 'pads'),
  [('torch', ((1, 1), (1, 1))), ('same', ((0, 1), (1, 1)))],
)
def test_mobilenet_padding_is_that_of_framework(x64, padding, pads):
  # TensorFlow pads an even side by 0 and 1, and an odd side by 1 and 1.
  net = block(stride=2, padding=padding, dtype=jnp.float64)
  x = images((2, 6, 5, 4), np.float64)
  variables = start(net, x)
  y, expected = networks.calls(net, variables, x)['depthwise'], None
  kernel = variables['params']['depthwise']['kernel']
  expected = lax.conv_general_dilated(
    y[0],
    kernel,
    (2, 2),
    pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=kernel.shape[-1],
  )
  np.testing.assert_allclose(y[1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
  ('features', 'stride', 'has_identity'),
  [(4, 1, True), (6, 1, False), (4, 2, False)],
)
def test_mobilenet_block_adds_identity_if_shape_is_kept(
  features, stride, has_identity
):
  net, x = block(features=features, stride=stride), 4 * images((2, 4, 4, 4))
  variables = start(net, x)
  norm = variables['params']['project_norm']
  params = {
    **variables['params'],
    'project_norm': jax.tree.map(jnp.zeros_like, norm),
  }
  calls = networks.calls(net, {**variables, 'params': params}, x)
  # There is no ReLU after the sum.
  expected = x if has_identity else np.zeros(calls[''][1].shape)
  np.testing.assert_array_equal(calls[''][1], expected)
  for name in ('depthwise', 'project'):
    values = np.asarray(calls[name][0])
    assert (values.min(), values.max()) == (0, 6), name


@pytest.mark.parametrize(
  ('activation', 'quantized'),
  [
    (DOREFA, {'depthwise', 'project'}),
    (SIGN, {'expand', 'depthwise', 'project'}),
  ],
)
def test_mobilenet_block_quantizes_declared_inputs(activation, quantized):
  net, x = block(activation=activation), images((2, 4, 4, 4))
  calls = networks.calls(net, start(net, x), x)
  levels = {
    name: len(np.unique(calls[name][0]))
    for name in ('expand', 'depthwise', 'project')
  }
  assert {name for name, count in levels.items() if count <= 4} == quantized
  if activation.signed:
    # There is no ReLU6.
    assert np.asarray(calls['expand_norm'][1]).min() < 0


def test_mobilenet_activation_adds_numbers_of_quantized_inputs():
  plain = leaves()
  pact = Activation(activations.pact(2), start=6.0)
  added = leaves(activation=pact).keys() - plain.keys()
  assert added == {
    f'params/block{i}/{layer}_act/number'
    for i in range(17)
    for layer in ('depthwise', 'project')
  }
  signed = Activation(activations.pact(2), start=6.0, signed=True)
  more = leaves(activation=signed).keys() - plain.keys() - added
  assert more == {'params/last_act/number'} | {
    f'params/block{i}/expand_act/number' for i in range(1, 17)
  }


def test_mobilenet_block_folds_scales_and_norms():
  net, x = block(), images((2, 4, 4, 4))
  variables = start(net, x)
  params, scales = dict(variables['params']), {}
  for i, layer in enumerate(('expand', 'depthwise', 'project'), start=1):
    kernel = params[layer]['kernel']
    params[layer] = {'kernel': jnp.sign(kernel) * (i / 8)}
    scales[f'{layer}/kernel'] = i / 8
  expected = net.apply({**variables, 'params': params}, x, train=False)
  folded, stats = models.fold_scales(params, variables['batch_stats'], scales)
  for layer in ('expand', 'depthwise', 'project'):
    assert set(np.unique(folded[layer]['kernel'])) == {-1, 1}
  y = net.apply({'params': models.fold_norms(folded, stats)}, x, train=False)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_mobilenet_block_counting_bits_keeps_results():
  x = images((2, 4, 4, 4))
  net = block(activation=SIGN)
  variables = start(net, x)
  params = dict(variables['params'])
  for layer in ('expand', 'project'):
    params[layer] = {'kernel': jnp.sign(params[layer]['kernel'])}
  variables = {**variables, 'params': params}
  y, counted = (
    networks.calls(net.clone(count_bits=counts), variables, x)[''][1]
    for counts in (False, True)
  )
  np.testing.assert_allclose(counted, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('activation', 'match'),
  [(DOREFA, 'not declared to give'), (SIGN, 'Train net.clone')],
)
def test_mobilenet_counting_bits_in_training_raises(activation, match):
  net = models.mobilenet_v2(activation=activation).clone(count_bits=True)
  with pytest.raises(ValueError, match=match):
    net.init(jax.random.key(0), images(), train=True)


@pytest.mark.slow
def test_mobilenet_quantized_step_moves_all_parameters():
  quantizer, activation = networks.SAME_BITS[4]
  net = models.mobilenet_v2(4, width=0.25, activation=activation)
  loss, moves = networks.loss_after_a_step(
    net, quantizer, images((4, 64, 64, 3))
  )
  assert np.isfinite(loss)
  assert {at for at, move in moves.items() if move == 0} == set()


@pytest.mark.parametrize(
  ('options', 'error', 'match'),
  [
    ({'width': 0.0}, ValueError, 'width=0.0 must be a number above 0'),
    ({'width': float('nan')}, ValueError, 'width=nan must be'),
    ({'padding': 'SAME'}, ValueError, "padding='SAME' must be .* torch, same"),
    ({'num_classes': 0}, ValueError, 'num_classes=0 must be'),
    ({'dtype': jnp.int8}, ValueError, 'int8 is not a floating point'),
    ({'activation': 2}, TypeError, 'activation=2 must be a mq_jax'),
  ],
)
def test_mobilenet_invalid_argument_raises(options, error, match):
  with pytest.raises(error, match=match):
    models.mobilenet_v2(**options)
