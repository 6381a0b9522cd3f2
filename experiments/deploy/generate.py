"""Generates text, byte by byte, with a trained language model."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def generate(
  logits_of: Callable[[Array], Array],
  prompt: bytes,
  length: int,
  *,
  context: int,
  temperature: float = 1.0,
  seed: int = 0,
) -> Iterator[int]:
  """Yields bytes after a prompt.

  The model sees the last `context` bytes and computes all of them again for
  each new one.

  Args:
    logits_of: `(tokens) -> logits`: int32 of shape (1, context) to (1, context,
      256).
    prompt: Text to go on from, not empty.
    length: Number of bytes to generate.
    context: Number of bytes that the model was trained on.
    temperature: Divisor of the logits; 0 takes the most probable byte.
    seed: Seed of the random choices.

  Raises:
    ValueError: If the prompt is empty or `temperature` is negative.
  """
  if not prompt:
    raise ValueError('prompt is empty: give at least one byte.')
  if not temperature >= 0:
    raise ValueError(f'temperature={temperature!r} must be at least 0.')

  @jax.jit
  def next_byte(tokens: Array, last: Array, key: Array) -> Array:
    logits = logits_of(tokens)[0, last].astype(jnp.float32)
    if not temperature:
      return jnp.argmax(logits)
    return jax.random.categorical(key, logits / temperature)

  seen = np.frombuffer(prompt, np.uint8)[-context:].astype(np.int32)
  key = jax.random.key(seed)
  for number in range(length):
    # No byte attends to the zeros after it.
    tokens = np.zeros((1, context), np.int32)
    tokens[0, : len(seen)] = seen
    chosen = next_byte(
      tokens, np.int32(len(seen) - 1), jax.random.fold_in(key, number)
    )
    seen = np.append(seen, np.int32(chosen))[-context:]
    yield int(chosen)


def packed_logits(
  net: Any, params: Callable[[], Any]
) -> Callable[[Array], Array]:
  """Returns the logits of a network, with parameters that a function unpacks.

  Args:
    net: Linen module: `(tokens, train) -> logits`.
    params: `() -> parameters`, traceable.
  """

  def logits_of(tokens: Array) -> Array:
    return net.apply({'params': params()}, tokens, train=False)

  return logits_of
