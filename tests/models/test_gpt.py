"""Compares the transformer with NumPy in float64, and tests its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import mq_jax
from mq_jax import activations, models, quantizers
from mq_jax.models.gpt import rotate
from mq_jax.selection import named_leaves

VOCABULARY, DEPTH, FEATURES, HEADS = 11, 3, 16, 2


def make(**options):
  return models.Gpt(
    VOCABULARY, DEPTH, FEATURES, HEADS, rngs=nnx.Rngs(0), **options
  )


def tokens(batch=2, length=7, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, VOCABULARY, (batch, length)), jnp.int32)


def params_of(net):
  """Returns the parameters by path, in float64."""
  _, state = nnx.split(net)
  pure = nnx.to_pure_dict(state)
  return {p: np.asarray(v, np.float64) for p, v in named_leaves(pure).items()}


def test_projections_before_a_shortcut_start_narrower():
  net = models.Gpt(VOCABULARY, 8, 64, HEADS, rngs=nnx.Rngs(0))
  for path, value in params_of(net).items():
    *_, layer, name = path.split('/')
    if name in ('kernel', 'embedding'):
      narrow = layer in ('out', 'down')
      std = 0.02 / (np.sqrt(2 * 8) if narrow else 1)
      assert np.std(value) == pytest.approx(std, rel=0.1), path


def rms_norm(x, scale):
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def turned(x):
  """Multiplies pairs of features, as complex numbers, by their rotation."""
  length, half = x.shape[1], x.shape[-1] // 2
  pairs = x[..., :half] + 1j * x[..., half:]
  angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(half) / half)
  pairs = pairs * np.exp(1j * angles)[:, None, :]
  return np.concatenate([pairs.real, pairs.imag], axis=-1)


def oracle(params, ids, tied=False, quantize=lambda x: x):
  x = params['embed/embedding'][ids]
  batch, length, _ = x.shape
  for layer in range(DEPTH):
    p = {
      path.removeprefix('blocks/'): leaf[layer]
      for path, leaf in params.items()
      if path.startswith('blocks/')
    }
    h = quantize(rms_norm(x, p['attention_norm/scale']))
    query, key, value = (
      (h @ p[f'attention/{name}/kernel']).reshape(batch, length, HEADS, -1)
      for name in ('query', 'key', 'value')
    )
    query, key = turned(query), turned(key)
    scores = np.einsum('bthd,bshd->bhts', query, key) / np.sqrt(query.shape[-1])
    scores[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
    mixed = np.einsum('bhts,bshd->bthd', special.softmax(scores, -1), value)
    mixed = quantize(mixed.reshape(batch, length, -1))
    x = x + mixed @ p['attention/out/kernel']
    h = quantize(rms_norm(x, p['mlp_norm/scale']))
    gate, up = h @ p['mlp/gate/kernel'], h @ p['mlp/up/kernel']
    hidden = quantize(gate * special.expit(gate) * up)
    x = x + hidden @ p['mlp/down/kernel']
  x = rms_norm(x, params['norm/scale'])
  return x @ (params['embed/embedding'].T if tied else params['head/kernel'])


def randomised(net):
  """Returns the network with larger weights, and norms that differ from 1."""
  graph, state = nnx.split(net)
  rng = np.random.default_rng(3)
  state = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(0.2, 0.4, leaf.shape)), state
  )
  return nnx.merge(graph, state)


@pytest.mark.parametrize('tied', [False, True])
def test_logits_of_a_bfloat16_network_are_float32(tied):
  assert make(tied=tied, dtype=jnp.bfloat16)(tokens()).dtype == jnp.float32


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('bits', [None, 8])
def test_logits_equal_oracle(x64, tied, bits):
  activation = None
  if bits:
    activation = mq_jax.Activation(activations.absmax(bits), signed=True)
  net = randomised(make(tied=tied, activation=activation, dtype=jnp.float64))
  ids = tokens()

  def quantize(x):
    if not bits:
      return x
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.floor(127 * x / largest + 0.5) * largest / 127

  expected = oracle(params_of(net), np.asarray(ids), tied, quantize)
  # jax.nn.dot_product_attention has a softmax in float32.
  np.testing.assert_allclose(net(ids), expected, rtol=1e-6, atol=1e-7)


def test_logits_do_not_depend_on_later_tokens():
  net, ids = randomised(make()), tokens()
  other = net(ids.at[:, 4:].set(0))
  np.testing.assert_allclose(net(ids)[:, :4], other[:, :4], rtol=1e-5)
  assert np.abs(net(ids)[:, 4:] - other[:, 4:]).max() > 1e-3


def test_rotated_products_depend_on_distances_alone(x64):
  rng = np.random.default_rng(0)
  query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8))) for _ in '12')

  def product(i, j):
    return np.vdot(rotate(query, jnp.array([i])), rotate(key, jnp.array([j])))

  assert product(3, 1) == pytest.approx(product(103, 101), rel=1e-9)
  assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_stacked_kernels_have_a_scale_per_layer():
  params = params_of(make())
  kernel = jnp.asarray(params['blocks/attention/query/kernel'])
  kernel = kernel * jnp.array([1.0, 10.0, 100.0])[:, None, None]
  quantizer = mq_jax.per(mq_jax.bwn(), axes=0)
  w_hat = quantizers.quantize(quantizer, kernel, ())
  scales = jnp.max(jnp.abs(w_hat), axis=(1, 2))
  np.testing.assert_allclose(
    scales, jnp.mean(jnp.abs(kernel), axis=(1, 2)), rtol=1e-6
  )


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'depth': 0}, 'depth=0 must be a positive'),
    ({'embed_dim': 10, 'heads': 4}, 'embed_dim=10 must be a multiple of 8'),
    (
      {'activation': mq_jax.Activation(activations.dorefa_activation(2))},
      'signed=True',
    ),
    (
      {'activation': mq_jax.Activation(activations.pact(2), 10.0, signed=True)},
      'without a trained number',
    ),
  ],
)
def test_invalid_sizes_raise(values, message):
  sizes = {'depth': DEPTH, 'embed_dim': FEATURES, 'heads': HEADS} | values
  with pytest.raises(ValueError, match=message):
    models.Gpt(VOCABULARY, rngs=nnx.Rngs(0), **sizes)
