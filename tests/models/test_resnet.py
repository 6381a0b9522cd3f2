"""Residual networks against a NumPy transcription in PyTorch's convention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mq_jax import models


def convolve(x, kernel, stride, pad):
  """PyTorch's Conv2d: the same pad on all four sides, NHWC and HWIO."""
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
  """The forward pass in float64, layer by layer as section 4.2 has it."""

  def __init__(self, variables, train):
    self.variables = jax.tree.map(np.asarray, variables)
    self.train = train

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
    x = np.maximum(self.conv_norm(x, 'stem', 'stem_norm'), 0)
    for stage in (1, 2, 3):
      for block in range(blocks):
        at = f'stage{stage}/block{block}'
        first = stage > 1 and block == 0
        stride = 2 if first else 1
        y = self.conv_norm(x, f'{at}/conv1', f'{at}/norm1', stride)
        y = self.conv_norm(np.maximum(y, 0), f'{at}/conv2', f'{at}/norm2')
        if first:
          x = self.conv_norm(x, f'{at}/shortcut', f'{at}/shortcut_norm', 2)
        x = np.maximum(x + y, 0)
    head = self.at('params', 'head')
    return x.mean((1, 2)) @ head['kernel'] + head['bias']


def random_like(tree, seed=0):
  """Numbers of the size that layers keep; those of a vector are positive."""
  rng = np.random.default_rng(seed)

  def leaf(like):
    if len(like.shape) == 1:
      return jnp.asarray(rng.uniform(0.5, 1.5, like.shape), like.dtype)
    deviation = np.sqrt(2 / np.prod(like.shape[:-1]))
    return jnp.asarray(rng.normal(0, deviation, like.shape), like.dtype)

  return jax.tree.map(leaf, tree)


def start(net, x):
  """Random variables, statistics too, without compiling `init`."""
  return random_like(
    jax.eval_shape(
      lambda x: net.init(jax.random.key(0), x, train=False),
      x,
    )
  )


def apply(net, variables, x, train=True):
  @jax.jit
  def run(variables, x):
    return net.apply(variables, x, train=train, mutable=['batch_stats'])

  return run(variables, x)


def images(shape=(3, 8, 8, 3), dtype=np.float32):
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


@pytest.mark.parametrize('train', [False, True])
def test_forward_is_the_oracle(x64, train):
  net = models.resnet(14, num_classes=7, dtype=jnp.float64)
  x = images((3, 12, 12, 3), np.float64)
  variables = start(net, x)
  logits, _ = apply(net, variables, x, train)
  expected = Oracle(variables, train)(np.asarray(x), blocks=2)
  assert logits.dtype == jnp.float64
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


def leaves(depth, num_classes=10):
  net = models.resnet(depth, num_classes)
  shapes = jax.eval_shape(
    lambda key: net.init(key, jnp.zeros((1, 32, 32, 3)), train=False),
    jax.random.key(0),
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }


@pytest.mark.parametrize(
  ('depth', 'weights'),
  # Stem 432, head 640, shortcuts 512 + 2048, the two convolutions that widen
  # 4608 + 18432; with n blocks a stage 2n of 2304, 2n - 1 of 9216 + 36864.
  [(20, 270896), (32, 464432), (44, 657968), (56, 851504), (110, 1722416)],
)
def test_weights_of_convolutions_and_dense_layer(depth, weights):
  found = leaves(depth)
  kernels = [leaf for name, leaf in found.items() if name.endswith('/kernel')]
  assert sum(leaf.size for leaf in kernels) == weights
  # The longest path; the two shortcuts do not count.
  assert len(kernels) - 2 == depth


def test_paths_and_shapes():
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


def test_named_networks_have_their_depths():
  for depth in (20, 32, 44, 56, 110):
    named = getattr(models, f'resnet{depth}')(num_classes=100)
    assert named == models.resnet(depth, 100)


def test_random_weights_keep_the_size_of_gradients():
  x = images()
  variables = jax.jit(models.resnet(8).init, static_argnames='train')(
    jax.random.key(0), x, train=False
  )
  kernel = variables['params']['stage3']['block0']['conv1']['kernel']
  # 18,432 normal numbers: their deviation is known to 0.5 %. 64 go out.
  np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)


def test_bfloat16_computes_narrow_and_keeps_float32():
  wide, narrow = models.resnet(8), models.resnet(8, dtype=jnp.bfloat16)
  x = images()
  variables = start(narrow, x)
  logits, stats = apply(narrow, variables, x)
  float32 = {jnp.dtype('float32')}
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, stats))} == float32
  assert logits.dtype == jnp.float32
  exact, _ = apply(wide, variables, x)
  error = np.abs(logits - exact).max() / np.abs(exact).max()
  # bfloat16 has 8 bits: some hundredths after nine layers, and never 0.
  assert 1e-4 < error < 0.1


def test_gradient_under_jit_is_the_finite_difference(x64):
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


@pytest.mark.parametrize('depth', [2, 18, 21, 34, -4])
def test_other_depths_are_refused(depth):
  with pytest.raises(ValueError, match=f'depth={depth}, but .* 6n \\+ 2: 20'):
    models.resnet(depth)


def test_other_arguments_are_refused():
  with pytest.raises(ValueError, match='num_classes=0 must be'):
    models.resnet20(num_classes=0)
  with pytest.raises(ValueError, match='int8 is not a floating point'):
    models.resnet20(dtype=jnp.int8)
  with pytest.raises(ValueError, match='jax_enable_x64'):
    models.resnet20(dtype=np.float64)


@pytest.mark.parametrize(
  ('batch', 'match'),
  [
    (np.zeros((8, 8, 3), np.float32), r'axes .*\(8, 8, 3\)'),
    (np.zeros((2, 8, 8, 3), np.uint8), 'normalised .* uint8'),
    (np.zeros((2, 3, 8, 8), np.float32), 'channels first.*moveaxis'),
  ],
)
def test_other_images_are_refused(batch, match):
  with pytest.raises(ValueError, match=match):
    models.resnet(8).init(jax.random.key(0), jnp.asarray(batch), train=False)
