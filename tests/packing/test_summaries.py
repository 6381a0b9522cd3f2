"""The table of layers against sizes, bytes and products counted by hand."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mq_jax
from mq_jax import models
from mq_jax.packing.macs import layer_macs
from mq_jax.selection import named_leaves, replace
from tests import problem

NHWC = ('NHWC', 'HWIO', 'NHWC')
X = jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32)
# 3x3 taps of 2 channels for each of 6x6 pixels in 4 channels; 4 x 3.
CONV, DENSE = 18 * 36 * 4, 12


def params():
  """±0.5; two levels of four; one scale a channel; and full precision."""
  rng = np.random.default_rng(0)
  sign = rng.choice([-1.0, 1.0], (3, 3, 2, 4))
  sign.flat[:2] = -1, 1
  dense = np.array([[-3, 1, 1], [1, 3, -3], [-3, 3, 1], [1, 1, -3]]) * 0.25
  each = np.array([0.5, 1.5]) * np.array([[1, -1], [-1, 1], [1, 1]])
  tree = {
    'conv': {'kernel': 0.5 * sign, 'bias': np.ones(4)},
    'dense': {'kernel': dense},
    'unread': {'kernel': each},
    'free': {'kernel': np.ones((2, 2))},
  }
  return jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)


RULES = [
  ('conv/kernel', mq_jax.bwn()),
  ('dense/kernel', mq_jax.dorefa(2)),
  ('unread/kernel', mq_jax.bwn(per_channel=True)),
]


def latent():
  """The same shapes before anything is quantized."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params()
  )


def packed_params(**options):
  return mq_jax.pack(params(), RULES, quantized=True, **options)


def apply(params, x):
  x = lax.conv_general_dilated(
    x, params['conv']['kernel'], (1, 1), 'SAME', dimension_numbers=NHWC
  )
  x = x + params['conv']['bias'][None, None, None]
  return jnp.maximum(x, 0).mean((1, 2)) @ params['dense']['kernel']


def rows(summary):
  return {layer.path: layer for layer in summary.layers}


def test_a_small_network_by_hand():
  found = mq_jax.summary(packed_params(), apply_fn=apply, inputs=(X,))
  assert [layer.path for layer in found.layers] == [
    'conv/bias', 'conv/kernel', 'dense/kernel', 'free/kernel', 'unread/kernel',
  ]  # fmt: skip
  layers = rows(found)
  # path, shape, bits, used, scale, bytes before, bytes, MACs
  assert layers['conv/bias'][1:] == ((4,), 32, None, None, 16, 16, 0)
  assert layers['conv/kernel'][1:] == (
    (3, 3, 2, 4), 1, 2, 0.5, 288, 9 + 4, CONV,
  )  # fmt: skip
  # -3, 1, 3 on a grid of steps of 2: two bits, of which three codes are used.
  assert layers['dense/kernel'][1:] == ((4, 3), 2, 3, 0.25, 48, 3 + 4, DENSE)
  assert layers['free/kernel'][1:] == ((2, 2), 32, None, None, 16, 16, 0)
  # Six bits, and a scale for each of two channels, of mean 1.
  assert layers['unread/kernel'][1:] == ((3, 2), 1, 2, 1.0, 24, 1 + 8, 0)
  assert found.state_bytes == 0
  assert found.total_bytes == 16 + 13 + 7 + 16 + 9
  assert found.total_bytes_before == 16 + 288 + 48 + 16 + 24


def test_what_is_packed_and_what_is_trained_have_summaries_too():
  state = {'mean': np.ones(5, 'f4'), 'n': np.int32(1)}
  found = mq_jax.summary(packed_params(model_state=state))
  assert found.layers == mq_jax.summary(packed_params()).layers
  assert {layer.macs for layer in found.layers} == {None}
  assert found.state_bytes == 24
  assert found.total_bytes == sum(layer.bytes for layer in found.layers) + 24
  assert found.total_bytes_before == 392 + 24
  found = mq_jax.summary(latent(), RULES)
  assert found == mq_jax.summary(mq_jax.pack(latent(), RULES))
  assert all(isinstance(layer, mq_jax.LayerSummary) for layer in found.layers)
  assert {path for path, layer in rows(found).items() if layer.used} == {
    path for path, _ in RULES
  }
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  state = problem.start(train)
  found = mq_jax.summary(state, mq_jax.bwn())
  kernels = {'first/kernel': 24, 'last/kernel': 6}
  for path, size in kernels.items():
    layer = rows(found)[path]
    assert layer.bits == 1
    assert layer.bytes == -(-size // 8) + 4
    w = np.asarray(named_leaves(state.params)[path], np.float64)
    np.testing.assert_allclose(layer.scale, np.mean(np.abs(w)), rtol=1e-6)
  assert found.state_bytes == 8


def test_the_summary_counts_what_the_file_holds():
  packed = packed_params(model_state={'mean': np.ones(5)})
  found = mq_jax.summary(packed)
  leaves = jax.tree.leaves((packed.params, packed.model_state))
  assert found.total_bytes == sum(np.asarray(leaf).nbytes for leaf in leaves)


def test_a_table_without_a_scale():
  levels = np.array([-0.7, -0.123, 0.2, 0.9], np.float32)
  w = levels[np.arange(40).reshape(10, 4) % 4]
  packed = mq_jax.pack({'w': w}, mq_jax.dorefa(3), quantized=True)
  (layer,) = mq_jax.summary(packed).layers
  assert layer[1:] == ((10, 4), 2, 4, None, 160, 10 + 16, None)


def test_values_in_use_are_the_most_of_one_channel():
  w = np.array([[0.3, 1, 5], [0.7, 1, 5], [0.9, 1, 6]], np.float32)
  packed = mq_jax.pack({'w': w}, mq_jax.methods.lq_nets(2), quantized=True)
  (layer,) = mq_jax.summary(packed).layers
  assert layer.used == 3
  assert layer.bits == 2
  assert layer.scale is None


# Products.


def looped(params, x):
  x = x @ jnp.ones((2, 4))
  x, _ = lax.scan(
    lambda x, _: (jnp.tanh(x @ params['square']), None), x, None, length=5
  )
  x, _ = lax.scan(lambda x, w: (x @ w, None), x, params['stacked'])
  return x @ params['square'].T


SQUARE = {'square': jnp.ones((4, 4)), 'stacked': jnp.ones((3, 4, 4))}


def test_loops_count_as_often_as_they_run():
  x = jnp.ones((1, 2))
  expected = {'square': 16 * (5 + 1), 'stacked': 3 * 16}
  assert layer_macs(SQUARE, looped, x) == expected
  assert layer_macs(SQUARE, jax.jit(looped), x) == expected
  twice = lambda p, x: lax.scan(  # noqa: E731
    lambda s, _: (s + jnp.sum(jax.jit(looped)(p, x)), None), 0.0, None, length=2
  )
  assert layer_macs(SQUARE, twice, x) == {p: 2 * n for p, n in expected.items()}


def test_a_condition_counts_the_branch_that_takes_most():
  own = {'small': jnp.ones((2, 3)), 'large': jnp.ones((2, 5))}

  def once(params, x):
    return jnp.sum(x @ params['small'])

  def most(params, x):
    return jnp.sum(x @ params['large']) + once(params, x)

  def neither(params, x):
    return jnp.sum(x)

  x, on = jnp.ones((7, 2)), jax.ShapeDtypeStruct((), bool)
  for branches in ((once, most), (most, once)):
    found = layer_macs(
      own, lambda p, x, on, b=branches: lax.cond(on, *b, p, x), x, on
    )
    assert found == {'small': 7 * 6, 'large': 7 * 10}
  found = layer_macs(
    own, lambda p, x, on: lax.cond(on, once, neither, p, x), x, on
  )
  assert found == {'small': 7 * 6}
  # In a loop, each time; with three to choose from too.
  index = jax.ShapeDtypeStruct((), jnp.int32)

  def thrice(params, x, index):
    return lax.scan(
      lambda s, _: (
        s + lax.switch(index, [neither, most, once], params, x), None,
      ),
      *(0.0, None), length=3,
    )  # fmt: skip

  found = layer_macs(own, thrice, x, index)
  assert found == {'small': 3 * 7 * 6, 'large': 3 * 7 * 10}


def test_a_condition_counts_one_branch_and_no_mixture():
  own = {'small': jnp.ones((2, 3)), 'large': jnp.ones((2, 5))}
  branches = [lambda p, x, n=name: jnp.sum(x @ p[n]) for name in own]
  found = layer_macs(
    own,
    lambda p, x, on: lax.cond(on, *branches, p, x),
    *(jnp.ones((7, 2)), jax.ShapeDtypeStruct((), bool)),
  )
  assert found == {'large': 7 * 10}


def test_while_loops_give_condition_and_body_their_own_weights():
  own = {
    'body': jnp.ones((4, 4)), 'both': jnp.ones((4, 4)), 'stop': jnp.ones((4, 1))
  }  # fmt: skip

  def apply(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x @ params['both'] @ params['stop']) < 9,
      lambda x: jnp.tanh(x @ params['body']) @ params['both'],
      x,
    )

  # Of unknown length: once.
  expected = {'body': 3 * 16, 'both': 2 * 3 * 16, 'stop': 3 * 4}
  assert layer_macs(own, apply, jnp.ones((3, 4))) == expected

  def only_body(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x) < 9, lambda x: x @ params['body'], x
    )

  def only_condition(params, x):
    return lax.while_loop(
      lambda x: jnp.sum(x @ params['stop']) < 9, lambda x: x + 1, x
    )

  x = jnp.ones((3, 4))
  assert layer_macs(own, only_body, x) == {'body': 3 * 16}
  assert layer_macs(own, only_condition, x) == {'stop': 3 * 4}


def test_a_weight_times_a_number_is_that_weight():
  own = {'w': jnp.ones((4, 5)), 'gain': jnp.ones((4, 1))}
  x, scale = jnp.ones((3, 4)), jnp.ones(())
  for network in (
    lambda p, x, scale: x @ (p['w'] * 2),
    lambda p, x, scale: x @ (scale * p['w']),
    lambda p, x, scale: x @ (-p['w'] / 3 + scale),
    lambda p, x, scale: x @ jax.jit(lambda w: 2 * w)(p['w']),
  ):
    assert layer_macs(own, network, x, scale) == {'w': 3 * 4 * 5}


@pytest.mark.parametrize('loop', ['scan', 'fori_loop'])
def test_layers_picked_from_a_stack_in_a_loop_count_for_the_stack(loop):
  def apply(params, x):
    if loop == 'fori_loop':
      return lax.fori_loop(0, 3, lambda i, x: x @ params['stacked'][i], x)
    return lax.scan(
      lambda x, i: (x @ params['stacked'][i], None), x, jnp.arange(3)
    )[0]

  own = {'stacked': jnp.ones((3, 4, 4))}
  assert layer_macs(own, apply, jnp.ones((2, 4))) == {'stacked': 3 * 2 * 16}


def test_jit_remat_vmap_and_precision_change_no_count():
  expected = {'conv/kernel': CONV, 'dense/kernel': DENSE}
  own = params()
  one = jnp.ones((6, 6, 2))

  def halves(params, x):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    return apply(half, x.astype(jnp.bfloat16))

  for network in (apply, jax.jit(apply), jax.checkpoint(apply), halves):
    assert layer_macs(own, network, X) == expected
  assert layer_macs(own, lambda p, x: apply(p, x[None]), one) == expected
  each = jax.vmap(lambda p, x: apply(p, x[None])[0], in_axes=(None, 0))
  assert layer_macs(own, each, jnp.ones((1, 6, 6, 2))) == expected
  # A batch takes as many times as much.
  batch = jax.ShapeDtypeStruct((7, 6, 6, 2), jnp.float32)
  assert layer_macs(own, each, batch) == {p: 7 * n for p, n in expected.items()}
  # Packed weights are those of their values.
  assert layer_macs(packed_params().params, apply, X) == expected


@pytest.mark.parametrize(
  ('strides', 'groups', 'kernel', 'expected'),
  [
    ((2, 2), 1, (3, 3, 4, 6), 4 * 4 * 6 * 9 * 4),
    ((1, 1), 2, (3, 3, 2, 6), 8 * 8 * 6 * 9 * 2),
    ((1, 1), 4, (5, 1, 1, 4), 8 * 8 * 4 * 5),
    ((2, 1), 1, (1, 1, 4, 3), 4 * 8 * 3 * 4),
  ],
)
def test_strides_and_groups(strides, groups, kernel, expected):
  found = layer_macs(
    {'w': jnp.ones(kernel)},
    lambda p, x: lax.conv_general_dilated(
      x, p['w'], strides, 'SAME', dimension_numbers=NHWC,
      feature_group_count=groups,
    ),
    jnp.ones((1, 8, 8, 4)),
  )  # fmt: skip
  assert found == {'w': expected}


def test_elementwise_products_are_none():
  assert (
    layer_macs({'w': jnp.ones(3)}, lambda p, x: p['w'] * x, jnp.ones(3)) == {}
  )
  own = {'w': jnp.ones((2, 3)), 'v': jnp.ones((3, 2))}
  found = layer_macs(own, lambda p: p['w'] @ p['v'])
  assert found == {'w': 12, 'v': 12}


def test_a_resnet20_takes_what_its_shapes_say():
  rng = np.random.default_rng(0)
  net = models.resnet20()
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False), x
  )
  own = jax.tree.map(lambda like: np.ones(like.shape, 'f4'), shapes)
  signs = {
    path: rng.choice(np.float32([-0.5, 0.5]), leaf.shape)
    for path, leaf in named_leaves(own['params']).items()
    if path.endswith('kernel')
  }
  weights = replace(own['params'], signs)

  def logits(params, x):
    return net.apply({**own, 'params': params}, x, train=False)

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


def cells(text):
  """The table's cells, cut where its ruler says; nothing stands between."""
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
def test_the_table_adds_up_and_is_aligned(state):
  found = mq_jax.summary(
    packed_params(model_state=state), apply_fn=apply, inputs=(X,)
  )
  (head, *lines), ratio = cells(str(found))
  assert [cell.strip() for cell in head] == [
    'layer', 'shape', 'bits', 'values', 'scale', 'bytes', 'share', 'MACs',
  ]  # fmt: skip
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
    '3x3x2x4', '1', '2 of 2', '0.5', '13', share, '2,592',
  ]  # fmt: skip
  assert by_name['dense/kernel'][2:4] == ['3 of 4', '0.25']
  assert by_name['full precision'][0] == '2 leaves'
  assert by_name['full precision'][4] == '32'
  if state:
    assert by_name['model state'][4] == '1,200'

  def number(cell):
    return float(cell.replace(',', '').rstrip('%') or 0)

  *parts, total = [[number(cell) for cell in line[5:]] for line in lines]
  assert total == [found.total_bytes, 100, CONV + DENSE]
  sums = np.sum(parts, axis=0)
  assert [sums[0], sums[2]] == [total[0], total[2]]
  np.testing.assert_allclose(sums[1], 100, atol=0.05 * len(parts))
  before = found.total_bytes_before
  assert ratio == (
    f'{before:,} bytes before, {found.total_bytes:,} packed:'
    f' {before / found.total_bytes:.1f} times smaller'
  )


def test_without_a_network_there_are_no_products():
  table, _ = cells(str(mq_jax.summary(packed_params())))
  assert {line[-1].strip() for line in table} == {'MACs', ''}


def test_what_is_refused():
  with pytest.raises(ValueError, match=r'quantizer is None.*rules'):
    mq_jax.summary(params())
  with pytest.raises(ValueError, match="'none' matches no leaf"):
    mq_jax.summary(params(), [('none', mq_jax.bwn())])
  with pytest.raises(ValueError, match=r'packed already.*out the quantizer'):
    mq_jax.summary(packed_params(), RULES)
  with pytest.raises(ValueError, match=r'conv/kernel .*quantized=True'):
    mq_jax.summary(params(), RULES)
  bad = latent() | {'dense': {'kernel': np.full((2, 2), np.nan, 'f4')}}
  rules = [('dense/kernel', mq_jax.bwn())]
  with pytest.raises(ValueError, match=r'dense/kernel .*not finite'):
    mq_jax.summary(bad, rules)
