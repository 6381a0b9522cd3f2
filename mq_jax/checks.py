"""Checks of arguments that many factories share."""

from typing import Any


def check_bits(bits: Any, least: int, most: int, hint: str = '') -> None:
  """Raises `ValueError` unless `bits` is an integer from `least` to `most`."""
  whole = isinstance(bits, int) and not isinstance(bits, bool)
  if not whole or not least <= bits <= most:
    raise ValueError(
      f'bits={bits!r} must be an integer from {least} to {most}{hint}.'
    )


def check_every(every: Any) -> None:
  """Raises `ValueError` unless `every` is a positive number of updates."""
  if isinstance(every, bool) or not isinstance(every, int) or every < 1:
    raise ValueError(f'every={every!r} must be a positive number of updates.')
