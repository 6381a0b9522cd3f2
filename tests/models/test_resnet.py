"""Tests residual networks against NumPy, with the conventions of PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import activations, models
from mq_jax.activations import Activation
from mq_jax.models import residual
from tests.models import make_torch_reference, networks
from tests.models.networks import images, random_like, start


def convolve(x, kernel, stride, pad):
  """Computes Conv2d of PyTorch: equal padding on all sides, NHWC and HWIO."""
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  side = (x.shape[1] - kernel.shape[0]) // stride + 1
  result = np.zeros((x.shape[0], side, side, kernel.shape[3]))
  for row in range(side):
    for column in range(side):
      top, left = row * stride, column * stride
      patch = x[:, top : top + kernel.shape[0], left : left + kernel.shape[1]]
      result[:, row, column] = np.tensordot(patch, kernel, 3)
  return result


class Oracle:
  """Computes the forward pass of section 4.2 layer by layer in float64."""

  def __init__(self, variables, train, activation=None):
    self.variables = jax.tree.map(np.asarray, variables)
    self.train = train
    self.activation = activation

  def relu(self, x):
    signed = self.activation is not None and self.activation.signed
    return x if signed else np.maximum(x, 0)

  def act(self, x, at):
    if self.activation is None:
      return x
    function, first = self.activation.function, self.activation.start
    numbers = () if first is None else (self.at('params', at)['number'],)
    return np.asarray(function(jnp.asarray(x), *numbers))

  def at(self, collection, path):
    tree = self.variables[collection]
    for name in path.split('/'):
      tree = tree[name]
    return tree

  def conv_norm(self, x, conv, norm, stride=1):
    kernel = self.at('params', conv)['kernel']
    x = convolve(x, kernel, stride, pad=1 if kernel.shape[0] == 3 else 0)
    weights, stats = self.at('params', norm), self.at('batch_stats', norm)
    mean, var = stats['mean'], stats['var']
    if self.train:
      mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * weights['scale'] + weights['bias']

  def __call__(self, x, blocks):
    x = self.relu(self.conv_norm(x, 'stem', 'stem_norm'))
    for stage in (1, 2, 3):
      for block in range(blocks):
        at = f'stage{stage}/block{block}'
        first = stage > 1 and block == 0
        stride = 2 if first else 1
        inputs = self.act(x, f'{at}/act1')
        y = self.conv_norm(inputs, f'{at}/conv1', f'{at}/norm1', stride)
        y = self.act(self.relu(y), f'{at}/act2')
        y = self.conv_norm(y, f'{at}/conv2', f'{at}/norm2')
        if first:
          x = self.conv_norm(inputs, f'{at}/shortcut', f'{at}/shortcut_norm', 2)
        x = self.relu(x + y)
    head = self.at('params', 'head')
    return x.mean((1, 2)) @ head['kernel'] + head['bias']


def apply(net, variables, x, train=True):
  @jax.jit
  def run(variables, x):
    return net.apply(variables, x, train=train, mutable=['batch_stats'])

  return run(variables, x)


@pytest.mark.parametrize('train', [False, True])
def test_resnet_forward_matches_oracle(x64, train):
  net = models.resnet(14, num_classes=7, dtype=jnp.float64)
  x = images((3, 12, 12, 3), np.float64)
  variables = start(net, x)
  logits, _ = apply(net, variables, x, train)
  expected = Oracle(variables, train)(np.asarray(x), blocks=2)
  assert logits.dtype == jnp.float64
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def leaves(depth, num_classes=10, **quantized):
  net = models.resnet(depth, num_classes, **quantized)
  return networks.named(networks.shapes(net, jnp.zeros((1, 32, 32, 3))))


@pytest.mark.parametrize(
  ('depth', 'weights'),
  # Stem 432, head 640, shortcuts 512 + 2048, two widening convolutions
  # 4608 + 18432. n blocks per stage add 2n of 2304, 2n - 1 of 9216 + 36864.
  [(20, 270896), (32, 464432), (44, 657968), (56, 851504), (110, 1722416)],
)
def test_resnet_depth_gives_published_weight_count(depth, weights):
  found = leaves(depth)
  kernels = [leaf for name, leaf in found.items() if name.endswith('/kernel')]
  assert sum(leaf.size for leaf in kernels) == weights
  # The depth counts the longest path, without the two shortcuts.
  assert len(kernels) - 2 == depth


def test_resnet20_paths_and_shapes():
  found = leaves(20, num_classes=100)
  assert {
    name: found[name].shape
    for name in (
      'params/stem/kernel',
      'params/stage1/block0/conv1/kernel',
      'params/stage2/block0/conv1/kernel',
      'params/stage2/block0/shortcut/kernel',
      'params/stage3/block2/norm2/scale',
      'params/head/kernel',
      'params/head/bias',
      'batch_stats/stage3/block0/shortcut_norm/var',
    )
  } == {
    'params/stem/kernel': (3, 3, 3, 16),
    'params/stage1/block0/conv1/kernel': (3, 3, 16, 16),
    'params/stage2/block0/conv1/kernel': (3, 3, 16, 32),
    'params/stage2/block0/shortcut/kernel': (1, 1, 16, 32),
    'params/stage3/block2/norm2/scale': (64,),
    'params/head/kernel': (64, 100),
    'params/head/bias': (100,),
    'batch_stats/stage3/block0/shortcut_norm/var': (64,),
  }
  assert 'params/stage1/block0/shortcut/kernel' not in found
  # 21 normalised layers, of 7 · (16 + 32 + 64) channels, and the biases.
  sizes = [x.size for name, x in found.items() if name.startswith('params')]
  assert sum(sizes) == 270896 + 90 * 64 + 2 * 784 + 100


def test_resnet_names_match_depths_and_weights():
  for depth in (8, 20, 32, 44, 56, 110):
    make = getattr(models, f'resnet{depth}')
    assert make(num_classes=100) == models.resnet(depth, 100)
    assert make.__name__ == f'resnet{depth}'
    weights = sum(
      leaf.size for at, leaf in leaves(depth).items() if at.endswith('/kernel')
    )
    assert f'ResNet{depth}: {weights:,} weights' in make.__doc__


@pytest.mark.slow
def test_resnet_init_uses_fan_out():
  x = images()
  variables = jax.jit(models.resnet(8).init, static_argnames='train')(
    jax.random.key(0), x, train=False
  )
  kernel = variables['params']['stage3']['block0']['conv1']['kernel']
  # The deviation of 18,432 normal numbers is exact to 0.5 %. The fan-out is 64.
  np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)


def test_resnet_bfloat16_parameters_stay_float32():
  wide, narrow = models.resnet(8), models.resnet(8, dtype=jnp.bfloat16)
  x = images()
  variables = start(narrow, x)
  logits, stats = apply(narrow, variables, x)
  float32 = {jnp.dtype('float32')}
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, stats))} == float32
  assert logits.dtype == jnp.float32
  exact, _ = apply(wide, variables, x)
  error = np.abs(logits - exact).max() / np.abs(exact).max()
  # bfloat16 has 8 bits: after nine layers the error is a few hundredths, not 0.
  assert 1e-4 < error < 0.1


def test_resnet_gradient_matches_finite_difference(x64):
  net = models.resnet(8, num_classes=4, dtype=jnp.float64)
  x = images(dtype=np.float64)
  variables = start(net, x)
  stats = variables['batch_stats']

  @jax.jit
  def loss(params):
    logits, _ = net.apply(
      {'params': params, 'batch_stats': stats},
      x,
      train=True,
      mutable=['batch_stats'],
    )
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 1])

  params = variables['params']
  direction = random_like(params, seed=2)
  gradient = jax.jit(jax.grad(loss))(params)
  slope = sum(
    jnp.vdot(g, d)
    for g, d in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
    )
  )
  moved = [
    jax.tree.map(lambda p, d, step=step: p + step * d, params, direction)
    for step in (1e-6, -1e-6)
  ]
  difference = (loss(moved[0]) - loss(moved[1])) / 2e-6
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(slope, difference, rtol=1e-5)


@pytest.mark.parametrize(
  'activation',
  [
    Activation(activations.bi_real_sign, signed=True),
    Activation(activations.dorefa_activation(2)),
    Activation(activations.pact(3), start=1.0),
  ],
)
def test_resnet_quantized_forward_matches_oracle(x64, activation):
  net = models.resnet8(7, dtype=jnp.float64, activation=activation)
  x = images(dtype=np.float64)
  variables = start(net, x)
  logits, _ = apply(net, variables, x)
  expected = Oracle(variables, True, activation)(np.asarray(x), blocks=1)
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(('activation', 'levels'), networks.LEVELS)
def test_resnet_quantizes_convolution_inputs_but_not_sums(activation, levels):
  net, x = models.resnet8(activation=activation), images()
  calls = networks.calls(net, start(net, x), x, train=True)
  inputs = {at: x for at, (x, _) in calls.items() if at[-5:-1] == 'conv'}
  assert len(inputs) == 6
  for at in ('stage2/block0', 'stage3/block0'):
    inputs[f'{at}/shortcut'] = calls[f'{at}/shortcut'][0]
    np.testing.assert_array_equal(
      inputs[f'{at}/shortcut'], inputs[f'{at}/conv1'], err_msg=at
    )
  for at, values in inputs.items():
    assert 2 <= len(np.unique(values)) <= levels, at
    if levels == 2 and activation.signed:
      assert set(np.unique(values)) == {-1, 1}, at
  for stage in (1, 2, 3):
    sums = np.asarray(calls[f'stage{stage}/block0'][1])
    assert len(np.unique(sums)) > sums.size // 4
    # Only a network without ReLU has negative sums.
    assert np.any(sums < 0) == activation.signed
  np.testing.assert_allclose(
    calls['head'][0],
    np.mean(calls['stage3/block0'][1], axis=(1, 2)),
    rtol=1e-5,
    atol=1e-6,
  )


def test_resnet_identity_activation_changes_nothing():
  identity = models.resnet8(activation=Activation(lambda x: x))
  plain, x = models.resnet8(), images()
  variables = start(plain, x)
  for found, expected in zip(
    jax.tree.leaves(apply(identity, variables, x)),
    jax.tree.leaves(apply(plain, variables, x)),
    strict=True,
  ):
    np.testing.assert_array_equal(found, expected)


def test_resnet_activation_adds_only_trained_numbers():
  plain = leaves(20)
  assert leaves(20, activation=Activation(activations.hwgq(2))) == plain
  activation = Activation(activations.pact(2), start=10.0)
  added = {
    name: leaf.shape
    for name, leaf in leaves(20, activation=activation).items()
    if name not in plain
  }
  assert added == {
    f'params/stage{stage}/block{block}/act{i}/number': ()
    for stage in (1, 2, 3)
    for block in (0, 1, 2)
    for i in (1, 2)
  }


def test_resnet_head_norm_replaces_head_bias():
  plain, normed = leaves(8, 7), leaves(8, 7, head_norm=True)
  assert plain.keys() - normed.keys() == {'params/head/bias'}
  added = {name: normed[name].shape for name in normed.keys() - plain.keys()}
  assert added == {
    'params/head_norm/scale': (7,),
    'params/head_norm/bias': (7,),
    'batch_stats/head_norm/mean': (7,),
    'batch_stats/head_norm/var': (7,),
  }
  net, x = models.resnet8(7, dtype=jnp.bfloat16, head_norm=True), images()
  variables = start(net, x)
  calls = networks.calls(net, variables, x, train=True)
  logits = np.asarray(calls['head_norm'][1])
  norm = variables['params']['head_norm']
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits.mean(0), norm['bias'], atol=1e-4)
  np.testing.assert_allclose(logits.std(0), norm['scale'], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize('bits', [1, 2, 4])
def test_resnet_quantized_step_moves_all_parameters(bits):
  quantizer, activation = networks.SAME_BITS[bits]
  net = models.resnet8(4, activation=activation, head_norm=bits == 1)
  loss, moves = networks.loss_after_a_step(net, quantizer, images())
  assert np.isfinite(loss)
  # Gradients reach every parameter through all quantizers.
  assert {at for at, move in moves.items() if move == 0} == set()
  assert any(at.endswith('act2/number') for at in moves) == (bits > 1)


@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('resnet18', 11_689_512),
    ('resnet34', 21_797_672),
    ('resnet50', 25_557_032),
  ],
)
def test_imagenet_resnet_parameter_count_is_that_of_torchvision(
  name, parameters
):
  make = getattr(models, name)
  found = networks.named(networks.shapes(make(), jnp.zeros((1, 32, 32, 3))))
  params = [leaf for at, leaf in found.items() if at.startswith('params/')]
  assert sum(leaf.size for leaf in params) == parameters
  assert make.__name__ == name
  assert f'{parameters:,} parameters' in make.__doc__
  reference = json.loads(make_torch_reference.PATH.read_text())
  assert reference['parameters'][name] == parameters


def test_resnet50_paths_and_shapes():
  net = models.resnet50(7)
  found = networks.named(networks.shapes(net, jnp.zeros((1, 32, 32, 3))))
  expected = {
    'params/stem/kernel': (7, 7, 3, 64),
    'params/stage1/block0/conv1/kernel': (1, 1, 64, 64),
    'params/stage1/block0/shortcut/kernel': (1, 1, 64, 256),
    'params/stage2/block0/conv2/kernel': (3, 3, 128, 128),
    'params/stage2/block0/conv3/kernel': (1, 1, 128, 512),
    'params/stage4/block2/norm3/scale': (2048,),
    'params/head/kernel': (2048, 7),
  }
  assert {path: found[path].shape for path in expected} == expected


def bottleneck(**options):
  return residual.ResNet(
    (1, 1), 4, jnp.float32, width=4, bottleneck=True, large_images=True
  ).clone(**options)


@pytest.mark.parametrize(('activation', 'levels'), networks.LEVELS[1:3])
def test_bottleneck_quantizes_each_convolution_input(activation, levels):
  net, x = bottleneck(activation=activation), images((2, 16, 16, 3))
  calls = networks.calls(net, start(net, x), x)
  at = 'stage2/block0'
  for conv in ('conv1', 'conv2', 'conv3', 'shortcut'):
    assert len(np.unique(calls[f'{at}/{conv}'][0])) == levels, conv
  assert len(np.unique(calls['stem'][0])) > levels
  # The 3x3 convolution has the stride, as in torchvision.
  assert calls[f'{at}/conv1'][1].shape == (2, 4, 4, 8)
  assert calls[f'{at}/conv2'][1].shape == (2, 2, 2, 8)


def test_bottleneck_counting_bits_keeps_results():
  sign = Activation(activations.sign, signed=True, binary=True)
  net, x = bottleneck(activation=sign), images((2, 16, 16, 3))
  variables = start(net, x)
  kernels = {'conv1', 'conv2', 'conv3'}
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.sign(leaf) if path[-2].key in kernels else leaf,
    variables['params'],
  )
  variables = {**variables, 'params': params}
  expected, counted = (
    networks.calls(net.clone(count_bits=counts), variables, x)[''][1]
    for counts in (False, True)
  )
  np.testing.assert_allclose(counted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('depth', [2, 18, 21, 34, -4])
def test_resnet_invalid_depth_raises(depth):
  with pytest.raises(
    ValueError, match=f'depth={depth} must be 6n \\+ 2 .*: 20'
  ):
    models.resnet(depth)


def test_resnet_invalid_arguments_raise():
  with pytest.raises(ValueError, match='num_classes=0 must be'):
    models.resnet20(num_classes=0)
  with pytest.raises(ValueError, match='int8 is not a floating point'):
    models.resnet20(dtype=jnp.int8)
  with pytest.raises(ValueError, match='jax_enable_x64'):
    models.resnet20(dtype=np.float64)


@pytest.mark.parametrize('value', networks.NO_ACTIVATIONS)
def test_resnet_invalid_activation_raises(value):
  with pytest.raises(TypeError, match='must be a mq_jax') as error:
    models.resnet20(activation=value)
  assert f'activation={value!r}' in str(error.value)


@pytest.mark.parametrize(
  ('batch', 'match'),
  [
    (np.zeros((8, 8, 3), np.float32), r'axes .*\(8, 8, 3\)'),
    (np.zeros((2, 8, 8, 3), np.uint8), 'normalised .* uint8'),
    (np.zeros((2, 3, 8, 8), np.float32), 'channels first.*moveaxis'),
  ],
)
def test_resnet_invalid_images_raise(batch, match):
  with pytest.raises(ValueError, match=match):
    models.resnet(8).init(jax.random.key(0), jnp.asarray(batch), train=False)


def test_resnet_symbolic_side_exports():
  net = models.resnet(8)
  side = jax.export.symbolic_shape('h - 1')
  shape = jax.ShapeDtypeStruct((1, *side, 8, 3), jnp.float32)
  variables = jax.eval_shape(
    lambda key: net.init(key, jnp.zeros((1, 8, 8, 3)), train=False),
    jax.random.key(0),
  )
  forward = jax.jit(lambda variables, x: net.apply(variables, x, train=False))
  exported = jax.export.export(forward)(variables, shape)
  assert exported.out_avals[0].shape == (1, 10)
