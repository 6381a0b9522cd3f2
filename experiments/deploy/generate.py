"""Generates text, byte by byte, with a trained language model."""

from collections.abc import Callable, Iterator

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
  """Returns an iterator over the bytes after a prompt.

  The model sees the last `context` bytes and computes all of them again for
  each new one.

  Args:
    logits_of: `(tokens) -> logits`: int32 of shape (1, context) to (1, context,
      256).
    prompt: Text to continue, not empty.
    length: Number of bytes to generate.
    context: Number of bytes that the model was trained on.
    temperature: Divisor of the logits; 0 takes the most probable byte.
    seed: Seed of the random choices.

  Raises:
    ValueError: If the prompt is empty, or `temperature` is negative or no
      number.
  """
  if not prompt:
    raise ValueError('prompt is empty: give at least one byte.')
  if not temperature >= 0:
    raise ValueError(f'temperature={temperature!r} must be at least 0.')
  next_byte = _make_next_byte(logits_of, temperature)

  def chosen() -> Iterator[int]:
    seen = np.frombuffer(prompt, np.uint8)[-context:].astype(np.int32)
    key = jax.random.key(seed)
    for number in range(length):
      # No byte attends to the zeros after it.
      tokens = np.zeros((1, context), np.int32)
      tokens[0, : len(seen)] = seen
      byte = next_byte(
        tokens, np.int32(len(seen) - 1), jax.random.fold_in(key, number)
      )
      seen = np.append(seen, np.int32(byte))[-context:]
      yield int(byte)

  return chosen()


def _make_next_byte(
  logits_of: Callable[[Array], Array], temperature: float
) -> Callable[..., Array]:
  """Returns `(tokens, place of the last, key) -> byte`, compiled."""

  @jax.jit
  def next_byte(tokens: Array, last: Array, key: Array) -> Array:
    logits = logits_of(tokens)[0, last].astype(jnp.float32)
    if not temperature:
      return jnp.argmax(logits)
    # A small temperature must not divide large logits to infinity.
    return jax.random.categorical(key, (logits - jnp.max(logits)) / temperature)

  return next_byte
