"""A decoder-only transformer in Flax NNX, with the layers of Llama.

The blocks are stacked: each parameter of `blocks` has a leading axis of layers,
so that the network compiles one block. Quantize it with one scale per layer by
`mq_jax.per(quantizer, axes=0)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from mq_jax.activations import Activation
from mq_jax.checks import check_count
from mq_jax.precision import widened

Array = jax.Array
ROPE_BASE = 10_000.0
EPSILON = 1e-6  # Of the norms.
# Features of the MLP per feature of the embedding: 8/3 in Llama, rounded up.
MLP_FACTOR = 3


def rotate(x: Array, positions: Array, base: float = ROPE_BASE) -> Array:
  """Turns pairs of features by an angle that grows with the position (RoPE).

  Args:
    x: Queries or keys of shape (batch, tokens, heads, features). Feature i and
      feature i + features / 2 are a pair.
    positions: Position of each token, of shape (tokens,).
    base: The pair i turns by position / base^(2i / features).

  References:
    Su et al., `RoFormer <https://arxiv.org/abs/2104.09864>`_, 2021, eq. (15)
  """
  half = x.shape[-1] // 2
  frequencies = base ** (-jnp.arange(half, dtype=widened(x).dtype) / half)
  angles = jnp.outer(positions, frequencies)[None, :, None]
  cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
  first, second = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [first * cos - second * sin, first * sin + second * cos], axis=-1
  )


def _linear(
  inputs: int, outputs: int, dtype: Any, std: float, rngs: nnx.Rngs
) -> nnx.Linear:
  return nnx.Linear(
    inputs,
    outputs,
    use_bias=False,
    dtype=dtype,
    kernel_init=nnx.initializers.normal(std),
    rngs=rngs,
  )


def _norm(features: int, dtype: Any, rngs: nnx.Rngs) -> nnx.RMSNorm:
  return nnx.RMSNorm(features, epsilon=EPSILON, dtype=dtype, rngs=rngs)


class Attention(nnx.Module):
  """Causal self-attention with rotated queries and keys."""

  def __init__(
    self,
    features: int,
    heads: int,
    quantize: Any,
    dtype: Any,
    std: float,
    rngs: nnx.Rngs,
  ) -> None:
    self.heads, self.quantize = heads, quantize
    self.query = _linear(features, features, dtype, 0.02, rngs)
    self.key = _linear(features, features, dtype, 0.02, rngs)
    self.value = _linear(features, features, dtype, 0.02, rngs)
    self.out = _linear(features, features, dtype, std, rngs)

  def __call__(self, x: Array) -> Array:
    """Maps (batch, tokens, features) to the same shape."""
    shape = (*x.shape[:2], self.heads, -1)
    inputs = self.quantize(x)
    positions = jnp.arange(x.shape[1])
    query = rotate(self.query(inputs).reshape(shape), positions)
    key = rotate(self.key(inputs).reshape(shape), positions)
    value = self.value(inputs).reshape(shape)
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return self.out(self.quantize(mixed.reshape(x.shape)))


class Mlp(nnx.Module):
  """SwiGLU: down(silu(gate(x)) * up(x))."""

  def __init__(
    self, features: int, quantize: Any, dtype: Any, std: float, rngs: nnx.Rngs
  ) -> None:
    self.quantize = quantize
    hidden = MLP_FACTOR * features
    self.gate = _linear(features, hidden, dtype, 0.02, rngs)
    self.up = _linear(features, hidden, dtype, 0.02, rngs)
    self.down = _linear(hidden, features, dtype, std, rngs)

  def __call__(self, x: Array) -> Array:
    """Maps (batch, tokens, features) to the same shape."""
    inputs = self.quantize(x)
    hidden = jax.nn.silu(self.gate(inputs)) * self.up(inputs)
    return self.down(self.quantize(hidden))


class Block(nnx.Module):
  """Attention and MLP, each after a norm and with a shortcut."""

  def __init__(
    self,
    features: int,
    heads: int,
    quantize: Any,
    dtype: Any,
    std: float,
    rngs: nnx.Rngs,
  ) -> None:
    self.attention_norm = _norm(features, dtype, rngs)
    self.attention = Attention(features, heads, quantize, dtype, std, rngs)
    self.mlp_norm = _norm(features, dtype, rngs)
    self.mlp = Mlp(features, quantize, dtype, std, rngs)

  def __call__(self, x: Array) -> Array:
    """Maps (batch, tokens, features) to the same shape."""
    x = x + self.attention(self.attention_norm(x))
    return x + self.mlp(self.mlp_norm(x))


class Gpt(nnx.Module):
  """Embedding, stacked blocks, norm and head.

  Args:
    vocabulary: Number of different tokens.
    depth: Number of blocks.
    embed_dim: Length of the embeddings, a multiple of twice `heads`.
    heads: Number of attention heads.
    tied: The head is the transposed embedding.
    activation: Quantizer of the inputs of the projections in blocks, without a
      trained number; None keeps them in full precision.
    dtype: Dtype in which the network computes; parameters are float32.
    rngs: Random numbers of the initial parameters.

  Raises:
    ValueError: If a size is not a positive integer, `heads` does not divide
      `embed_dim` into even parts, or `activation` has a trained number or takes
      rectified inputs.

  References:
    Touvron et al., `LLaMA <https://arxiv.org/abs/2302.13971>`_, 2023, section
    2.2. The initial deviations are those of GPT-2: 0.02, and 0.02 / √(2 depth)
    before a shortcut.
  """

  def __init__(
    self,
    vocabulary: int,
    depth: int,
    embed_dim: int,
    heads: int,
    *,
    tied: bool = False,
    activation: Activation | None = None,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ) -> None:
    for name, size in (
      ('vocabulary', vocabulary),
      ('depth', depth),
      ('embed_dim', embed_dim),
      ('heads', heads),
    ):
      check_count(name, size)
    if embed_dim % (2 * heads):
      raise ValueError(
        f'embed_dim={embed_dim} must be a multiple of {2 * heads}, twice'
        f' heads={heads}: a head turns pairs of features.'
      )
    if activation and not (activation.signed and activation.start is None):
      raise ValueError(
        'The projections of a transformer have inputs of both signs: use an'
        ' activation with signed=True and without a trained number, such as'
        ' Activation(absmax(8), signed=True).'
      )
    self.tied = tied
    std = 0.02 / (2 * depth) ** 0.5
    quantize = activation.function if activation else lambda x: x
    self.embed = nnx.Embed(
      vocabulary,
      embed_dim,
      dtype=dtype,
      embedding_init=nnx.initializers.normal(0.02),
      rngs=rngs,
    )

    @nnx.split_rngs(splits=depth)
    @nnx.vmap
    def make_blocks(rngs: nnx.Rngs) -> Block:
      return Block(embed_dim, heads, quantize, dtype, std, rngs)

    self.blocks = make_blocks(rngs)
    self.norm = _norm(embed_dim, dtype, rngs)
    if not tied:
      self.head = _linear(embed_dim, vocabulary, dtype, 0.02, rngs)

  def __call__(self, tokens: Array, train: bool = False) -> Array:
    """Returns logits of shape (batch, tokens, vocabulary), at least float32.

    Args:
      tokens: int32 of shape (batch, tokens).
      train: Has no effect: no layer differs in training.
    """
    del train

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def apply_blocks(block: Block, x: Array) -> Array:
      return block(x)

    x = self.norm(apply_blocks(self.blocks, self.embed(tokens)))
    logits = self.embed.attend(x) if self.tied else self.head(x)
    # bfloat16 is too coarse for the exponentials and sums of a loss.
    return logits.astype(jnp.promote_types(jnp.float32, logits.dtype))


def gpt(
  num_classes: int,
  depth: int,
  embed_dim: int,
  heads: int,
  *,
  tied: bool = False,
  dtype: Any = jnp.float32,
  activation: Activation | None = None,
) -> Any:
  """Returns `Gpt` as a Linen module; its sizes are checked in `init`.

  Args:
    num_classes: Number of different tokens.
    depth: As in `Gpt`, like the other arguments.
    embed_dim: Length of the embeddings.
    heads: Number of attention heads.
    tied: The head is the transposed embedding.
    dtype: Dtype in which the network computes.
    activation: Quantizer of the inputs of the projections.
  """
  return bridge.to_linen(
    Gpt,
    num_classes,
    depth,
    embed_dim,
    heads,
    tied=tied,
    activation=activation,
    dtype=dtype,
  )
