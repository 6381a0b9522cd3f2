"""Generates text, byte by byte, with a trained language model."""

from collections.abc import Callable, Iterator

import numpy as np

from experiments.common.errors import InvalidError


def generate(
  logits_of: Callable[[np.ndarray], np.ndarray],
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
    logits_of: `(tokens) -> logits`: uint8 of shape (1, context) to (1, context,
      256).
    prompt: Text to continue, not empty.
    length: Number of bytes to generate.
    context: Number of bytes that the model was trained on.
    temperature: Divisor of the logits; 0 takes the most probable byte.
    seed: Seed of the random choices.

  Raises:
    ValueError: If the prompt is empty, or `temperature` is negative or no
      number.
    InvalidError: If the model does not predict bytes, at the first byte.
  """
  if not prompt:
    raise ValueError('prompt is empty: give at least one byte.')
  if not temperature >= 0:
    raise ValueError(f'temperature={temperature!r} must be at least 0.')

  def chosen() -> Iterator[int]:
    seen = bytearray(prompt[-context:])
    rng = np.random.default_rng(seed)
    for _ in range(length):
      # No byte attends to the zeros after it.
      tokens = np.zeros((1, context), np.uint8)
      tokens[0, : len(seen)] = seen
      byte = _choose(logits_of(tokens)[0, len(seen) - 1], temperature, rng)
      seen = (seen + bytes([byte]))[-context:]
      yield byte

  return chosen()


def _choose(
  logits: np.ndarray, temperature: float, rng: np.random.Generator
) -> int:
  """Returns a byte with the probabilities of its logits."""
  if len(logits) > 256:
    raise InvalidError(
      f'The model has {len(logits)} logits per token, but there are 256 bytes.'
      ' Use a file that python -m experiments.deploy wrote.'
    )
  logits = logits.astype(np.float64)
  if temperature:
    # A small temperature must not divide large logits to infinity.
    logits = (logits - logits.max()) / temperature + rng.gumbel(
      size=len(logits)
    )
  return int(np.argmax(logits))
