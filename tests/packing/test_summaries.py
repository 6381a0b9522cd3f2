"""Compares `summary` with sizes, bytes and products counted by hand."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import models
from mq_jax.selection import named_leaves, replace
from tests import problem
from tests.packing import small_network


def latent():
  """Returns latent weights with the shapes of the small network."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
    small_network.params(),
  )


def rows(summary):
  return {layer.path: layer for layer in summary.layers}


def test_summary_small_network_equals_hand_computed_values():
  found = mq_jax.summary(
    small_network.packed_params(),
    apply_fn=small_network.apply,
    inputs=(small_network.X,),
  )
  assert [layer.path for layer in found.layers] == [
    'conv/bias',
    'conv/kernel',
    'dense/kernel',
    'free/kernel',
    'unread/kernel',
  ]
  layers = rows(found)
  # path, shape, bits, used, scale, bytes before, bytes, MACs
  assert layers['conv/bias'][1:] == ((4,), 32, None, None, 16, 16, 0)
  assert layers['conv/kernel'][1:] == (
    (3, 3, 2, 4),
    1,
    2,
    0.5,
    288,
    9 + 4,
    small_network.CONV,
  )
  # -3, 1 and 3 are on a grid with step 2: two bits, with three codes in use.
  assert layers['dense/kernel'][1:] == (
    (4, 3),
    2,
    3,
    0.25,
    48,
    3 + 4,
    small_network.DENSE,
  )
  assert layers['free/kernel'][1:] == ((2, 2), 32, None, None, 16, 16, 0)
  # Six bits, and one scale for each of two channels. The mean scale is 1.
  assert layers['unread/kernel'][1:] == ((3, 2), 1, 2, 1.0, 24, 1 + 8, 0)
  assert found.state_bytes == 0
  assert found.total_bytes == 16 + 13 + 7 + 16 + 9
  assert found.total_bytes_before == 16 + 288 + 48 + 16 + 24


def test_summary_accepts_packed_params_and_latent_params():
  state = {'mean': np.ones(5, 'f4'), 'n': np.int32(1)}
  found = mq_jax.summary(small_network.packed_params(model_state=state))
  assert found.layers == mq_jax.summary(small_network.packed_params()).layers
  assert {layer.macs for layer in found.layers} == {None}
  assert found.state_bytes == 24
  keys = small_network.packed_params(model_state={'k': jax.random.key(0)})
  assert mq_jax.summary(keys).state_bytes == 8
  assert found.total_bytes == sum(layer.bytes for layer in found.layers) + 24
  assert found.total_bytes_before == 392 + 24
  found = mq_jax.summary(latent(), small_network.RULES)
  assert found == mq_jax.summary(mq_jax.pack(latent(), small_network.RULES))
  assert all(isinstance(layer, mq_jax.LayerSummary) for layer in found.layers)
  assert {path for path, layer in rows(found).items() if layer.used} == {
    path for path, _ in small_network.RULES
  }
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  state = problem.start(train)
  found = mq_jax.summary(train.pack(state))
  kernels = {'first/kernel': 24, 'last/kernel': 6}
  for path, size in kernels.items():
    layer = rows(found)[path]
    assert layer.bits == 1
    assert layer.bytes == -(-size // 8) + 4
    w = np.asarray(named_leaves(state.params)[path], np.float64)
    np.testing.assert_allclose(layer.scale, np.mean(np.abs(w)), rtol=1e-6)
  assert found.state_bytes == 8


def test_summary_total_bytes_equal_bytes_of_arrays():
  packed = small_network.packed_params(model_state={'mean': np.ones(5)})
  found = mq_jax.summary(packed)
  leaves = jax.tree.leaves((packed.params, packed.model_state))
  assert found.total_bytes == sum(np.asarray(leaf).nbytes for leaf in leaves)


def test_summary_levels_without_scale_reports_none():
  levels = np.array([-0.7, -0.123, 0.2, 0.9], np.float32)
  w = levels[np.arange(40).reshape(10, 4) % 4]
  packed = mq_jax.pack({'w': w}, mq_jax.dorefa(3), quantized=True)
  (layer,) = mq_jax.summary(packed).layers
  assert layer[1:] == ((10, 4), 2, 4, None, 160, 10 + 16, None)


def test_summary_used_codes_are_maximum_over_channels():
  w = np.array([[0.3, 1, 5], [0.7, 1, 5], [0.9, 1, 6]], np.float32)
  packed = mq_jax.pack({'w': w}, mq_jax.methods.lq_nets(2), quantized=True)
  (layer,) = mq_jax.summary(packed).layers
  assert layer.used == 3
  assert layer.bits == 2
  assert layer.scale is None


def test_summary_resnet20_equals_counts_from_shapes():
  rng = np.random.default_rng(0)
  net = models.resnet20()
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False), x
  )
  variables = jax.tree.map(lambda like: np.ones(like.shape, 'f4'), shapes)
  signs = {
    path: rng.choice(np.float32([-0.5, 0.5]), leaf.shape)
    for path, leaf in named_leaves(variables['params']).items()
    if path.endswith('kernel')
  }
  weights = replace(variables['params'], signs)

  def logits(params, x):
    return net.apply({**variables, 'params': params}, x, train=False)

  packed = mq_jax.pack(weights, mq_jax.bwn(), quantized=True)
  found = mq_jax.summary(packed, apply_fn=logits, inputs=(x,))
  layers = rows(found)
  sides = {'stem': 32, 'stage1': 32, 'stage2': 16, 'stage3': 8}
  convolutions, shortcuts = 0, 0
  for path, leaf in signs.items():
    layer = layers[path]
    assert (layer.bits, layer.used, layer.scale) == (1, 2, 0.5)
    assert layer.shape == leaf.shape
    assert layer.bytes_before == 4 * leaf.size
    assert layer.bytes == -(-leaf.size // 8) + 4
    if path == 'head/kernel':
      assert layer.macs == 640
      continue
    assert layer.macs == leaf.size * sides[path.split('/')[0]] ** 2
    if 'shortcut' in path:
      shortcuts += layer.macs
    else:
      convolutions += layer.macs
  assert convolutions == 40_550_400
  assert shortcuts == 2 * 131_072
  others = [layer for path, layer in layers.items() if path not in signs]
  assert {layer.macs for layer in others} == {0}
  assert {layer.bits for layer in others} == {32}
  text = str(found)
  assert f'{40_550_400 + 2 * 131_072 + 640:,}' in text.splitlines()[-2]


# The table.


def split_cells(text):
  """Splits the table into cells at its ruler; checks that gaps are empty."""
  head, ruler, *lines = text.splitlines()
  spans = [match.span() for match in re.finditer('-+', ruler)]
  assert len(spans) == len(head.split()) == 8
  for line in (head, *lines[:-1]):
    between = ''.join(
      line[end:start] for (_, end), (start, _) in itertools.pairwise(spans)
    )
    assert not between.strip(), line
    assert len(line) <= spans[-1][1]
  table = [[line[a:b] for a, b in spans] for line in (head, *lines[:-1])]
  return table, lines[-1]


@pytest.mark.parametrize('state', [{}, {'mean': np.ones(300, np.float32)}])
def test_summary_str_columns_align_and_add_up(state):
  found = mq_jax.summary(
    small_network.packed_params(model_state=state),
    apply_fn=small_network.apply,
    inputs=(small_network.X,),
  )
  (head, *lines), ratio = split_cells(str(found))
  assert [cell.strip() for cell in head] == [
    'layer',
    'shape',
    'bits',
    'values',
    'scale',
    'bytes',
    'share',
    'MACs',
  ]
  for line in (head, *lines):
    for cell in line[:2]:
      assert cell == cell.strip().ljust(len(cell))
    for cell in line[2:-1]:
      assert cell == cell.strip().rjust(len(cell))
  names = [line[0].strip() for line in lines]
  more = ['model state'] if state else []
  quantized = ['conv/kernel', 'dense/kernel', 'unread/kernel']
  assert names == [*quantized, 'full precision', *more, 'in all']
  by_name = {
    line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines
  }
  share = f'{100 * 13 / found.total_bytes:.1f}%'
  assert by_name['conv/kernel'] == [
    '3x3x2x4',
    '1',
    '2 of 2',
    '0.5',
    '13',
    share,
    '2,592',
  ]
  assert by_name['dense/kernel'][2:4] == ['3 of 4', '0.25']
  assert by_name['full precision'][0] == '2 leaves'
  assert by_name['full precision'][4] == '32'
  if state:
    assert by_name['model state'][4] == '1,200'

  def number(cell):
    return float(cell.replace(',', '').rstrip('%') or 0)

  *parts, total = [[number(cell) for cell in line[5:]] for line in lines]
  assert total == [
    found.total_bytes,
    100,
    small_network.CONV + small_network.DENSE,
  ]
  sums = np.sum(parts, axis=0)
  assert [sums[0], sums[2]] == [total[0], total[2]]
  np.testing.assert_allclose(sums[1], 100, atol=0.05 * len(parts))
  before = found.total_bytes_before
  assert ratio == (
    f'{before:,} bytes before, {found.total_bytes:,} packed:'
    f' {before / found.total_bytes:.1f} times smaller'
  )


def test_summary_without_network_has_empty_macs_column():
  table, _ = split_cells(str(mq_jax.summary(small_network.packed_params())))
  assert {line[-1].strip() for line in table} == {'MACs', ''}


def test_summary_bad_arguments_raise():
  with pytest.raises(ValueError, match=r'quantizer is None.*rules'):
    mq_jax.summary(small_network.params())
  with pytest.raises(ValueError, match="'none' matches no leaf"):
    mq_jax.summary(small_network.params(), [('none', mq_jax.bwn())])
  with pytest.raises(ValueError, match=r'packed already.*out the quantizer'):
    mq_jax.summary(small_network.packed_params(), small_network.RULES)
  with pytest.raises(ValueError, match=r'conv/kernel .*quantized=True'):
    mq_jax.summary(small_network.params(), small_network.RULES)
  bad = latent() | {'dense': {'kernel': np.full((2, 2), np.nan, 'f4')}}
  rules = [('dense/kernel', mq_jax.bwn())]
  with pytest.raises(ValueError, match=r'dense/kernel .*not finite'):
    mq_jax.summary(bad, rules)
