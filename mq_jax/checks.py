"""Argument checks that several factories share."""

from typing import Any


def check_bits(bits: Any, minimum: int, maximum: int, hint: str = '') -> None:
  """Raises `ValueError` unless `bits` is an integer in the given range."""
  is_integer = isinstance(bits, int) and not isinstance(bits, bool)
  if not is_integer or not minimum <= bits <= maximum:
    raise ValueError(
      f'bits={bits!r} must be an integer from {minimum} to {maximum}{hint}.'
    )


def check_every(every: Any) -> None:
  """Raises `ValueError` unless `every` is a positive number of updates."""
  if isinstance(every, bool) or not isinstance(every, int) or every < 1:
    raise ValueError(f'every={every!r} must be a positive number of updates.')
