"""Tests that a Gemma-like transformer of Flax NNX trains and packs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mq_jax
from mq_jax import methods
from mq_jax.packing.packed_array import packed_leaves
from mq_jax.selection import named_leaves

WIDTH, HEADS, GROUPS, HEAD, HIDDEN, VOCABULARY = 32, 4, 2, 8, 64, 32
# The rules of docs/language_models.md.
RULES = [('layers/.*(attn|mlp).*(w|kernel)', methods.absmean())]


class Einsum(nnx.Module):
  """A projection by a kernel of three axes, as Gemma's `Einsum`."""

  def __init__(self, equation, shape, rngs):
    self.equation = equation
    self.w = nnx.Param(0.1 * jax.random.normal(rngs.params(), shape))

  def __call__(self, x):
    return jnp.einsum(self.equation, x, self.w[...])


class Norm(nnx.Module):
  def __init__(self):
    self.scale = nnx.Param(jnp.zeros(WIDTH))

  def __call__(self, x):
    size = jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
    return x / size * (1 + self.scale[None, None])


def rotated(x):
  """Rotates pairs of (batch, time, heads, HEAD) by their position."""
  half = HEAD // 2
  rates = 10_000.0 ** -(jnp.arange(half) / half)
  angles = jnp.arange(x.shape[1])[:, None] * rates[None]
  sin, cos = jnp.sin(angles)[None, :, None], jnp.cos(angles)[None, :, None]
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )


class Attention(nnx.Module):
  """Grouped queries: HEADS / GROUPS heads share keys and values."""

  def __init__(self, rngs):
    self.q_einsum = Einsum('btd,ndh->btnh', (HEADS, WIDTH, HEAD), rngs)
    self.kv_einsum = Einsum('btd,cgdh->cbtgh', (2, GROUPS, WIDTH, HEAD), rngs)
    self.attn_vec_einsum = Einsum('btnh,nhd->btd', (HEADS, HEAD, WIDTH), rngs)

  def __call__(self, x):
    keys, values = self.kv_einsum(x)
    heads = jax.nn.dot_product_attention(
      rotated(self.q_einsum(x)), rotated(keys), values, is_causal=True
    )
    return self.attn_vec_einsum(heads)


class Block(nnx.Module):
  def __init__(self, rngs):
    self.pre_attention_norm, self.pre_ffw_norm = Norm(), Norm()
    self.attn = Attention(rngs)
    sizes = {
      'gate_proj': (WIDTH, HIDDEN),
      'up_proj': (WIDTH, HIDDEN),
      'down_proj': (HIDDEN, WIDTH),
    }
    self.mlp = nnx.Dict(
      {
        name: nnx.Linear(*size, use_bias=False, rngs=rngs)
        for name, size in sizes.items()
      }
    )

  def __call__(self, x):
    x = x + self.attn(self.pre_attention_norm(x))
    y = self.pre_ffw_norm(x)
    gate = nnx.gelu(self.mlp['gate_proj'](y))
    return x + self.mlp['down_proj'](gate * self.mlp['up_proj'](y))


class Gemma(nnx.Module):
  """Two blocks and an embedding, which is also the head."""

  def __init__(self, rngs):
    self.embedder = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
    self.layers = nnx.List([Block(rngs) for _ in range(2)])
    self.final_norm = Norm()

  def __call__(self, tokens):
    x = self.embedder(tokens) * jnp.sqrt(WIDTH)
    for layer in self.layers:
      x = layer(x)
    return self.embedder.attend(self.final_norm(x))


def counting_text(key):
  """Returns tokens that count upwards in steps of 1 to 3: (16, 17).

  The next token depends on the last two.
  """
  starts, strides = jax.random.split(key)
  first = jax.random.randint(starts, (16, 1), 0, VOCABULARY)
  stride = jax.random.randint(strides, (16, 1), 1, 4)
  return (first + stride * jnp.arange(17)[None]) % VOCABULARY


@pytest.fixture(scope='module')
def trained():
  graph, params = nnx.split(Gemma(nnx.Rngs(0)))

  def loss_fn(params, model_state, batch, rng):
    del rng
    logits = nnx.merge(graph, params)(batch[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch[:, 1:]
    )
    return losses.mean(), (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn,
    RULES,
    mq_jax.fc_grad(init='identity'),
    refine=optax.scale_by_adam(),
    learning_rate=1e-2,
  )
  keys = jax.random.split(jax.random.key(1), 121)
  state = train.init(keys[0], params, {}, counting_text(keys[0]))
  start = jax.device_get((train.forward_params(state), state.phi))
  losses = []
  for key in keys[1:]:
    state, metrics = train.step(state, counting_text(key))
    losses.append(float(metrics['loss']))
  return graph, train, start, state, losses


def test_rules_select_the_projections_alone(trained):
  _, train, (params, _), *_ = trained
  projections = [
    'attn/attn_vec_einsum/w',
    'attn/kv_einsum/w',
    'attn/q_einsum/w',
    'mlp/down_proj/kernel',
    'mlp/gate_proj/kernel',
    'mlp/up_proj/kernel',
  ]
  # Some versions of Flax have one more level at the end of each path.
  assert sorted(
    path.removesuffix('/value') for path in train.selection(params).selected
  ) == [f'layers/{layer}/{name}' for layer in range(2) for name in projections]


def test_ternary_projections_learn_to_count(trained):
  _, train, (first, first_phi), state, losses = trained
  # Without attention, the loss is at least log(3) = 1.1.
  assert np.mean(losses[-5:]) < 0.5
  before, after = map(named_leaves, (first, train.forward_params(state)))
  for path in train.selection(first).selected:
    flipped = np.sign(before[path]) != np.sign(after[path])
    assert 0.01 < flipped.mean() < 0.9, path
  phi = jax.tree.leaves(jax.device_get(state.phi))
  assert not all(map(np.array_equal, jax.tree.leaves(first_phi), phi))


def test_packed_model_returns_what_the_trained_one_returns(trained):
  graph, train, _, state, _ = trained
  params = train.forward_params(state)
  packed = mq_jax.pack(params, RULES, quantized=True)
  unpacked = mq_jax.unpack(packed.params)
  leaves = named_leaves(unpacked)
  for path in packed_leaves(packed.params):
    values = np.unique(leaves[path])
    assert len(values) == 3, path
    np.testing.assert_array_equal(values, [-values[2], 0, values[2]])
  text = counting_text(jax.random.key(2))
  logits, expected = (
    nnx.merge(graph, weights)(text) for weights in (unpacked, params)
  )
  np.testing.assert_array_equal(logits, expected)
