"""Argument checks that several factories share."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_bits(bits: Any, minimum: int, maximum: int, hint: str = '') -> int:
  """Returns `bits` as an int; `ValueError` unless it is in the given range."""
  is_integer = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
  if not is_integer or not minimum <= bits <= maximum:
    raise ValueError(
      f'bits={bits!r} must be an integer from {minimum} to {maximum}{hint}.'
    )
  # A NumPy integer of 8 bits overflows in 2**bits.
  return int(bits)


def check_switch(**arguments: Any) -> None:
  """Raises `TypeError` unless the named arguments are True or False.

  Python treats text such as 'False' as true, so text is refused.
  """
  for name, value in arguments.items():
    if not isinstance(value, bool | np.bool):
      raise TypeError(f'{name}={value!r} must be True or False.')


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Raises `ValueError` unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name}={value!r} must be one of {choices}.')


def check_number(**arguments: Any) -> None:
  """Raises `TypeError` if one of the named arguments is not a number."""
  for name, value in arguments.items():
    if isinstance(value, type) or not hasattr(value, '__float__'):
      raise TypeError(f'{name}={value!r} must be a number.')


def check_finite(**arguments: Any) -> None:
  """Raises `ValueError` if one of the named arguments is not finite."""
  check_number(**arguments)
  for name, value in arguments.items():
    if not math.isfinite(value):
      raise ValueError(f'{name}={value!r} must be finite.')


def check_at_least(minimum: float, **arguments: Any) -> None:
  """Raises `ValueError` unless the named arguments are finite and in range."""
  check_number(**arguments)
  for name, value in arguments.items():
    if not minimum <= value < math.inf:
      raise ValueError(
        f'{name}={value!r} must be at least {minimum} and finite.'
      )


def check_positive(**arguments: Any) -> None:
  """Raises `ValueError` unless the named arguments are finite and positive."""
  check_number(**arguments)
  for name, value in arguments.items():
    if not 0 < value < math.inf:
      raise ValueError(f'{name}={value!r} must be positive and finite.')


def check_schedule(**arguments: Any) -> None:
  """Raises `TypeError` unless the named arguments are functions."""
  for name, value in arguments.items():
    if not callable(value):
      raise TypeError(
        f'{name}={value!r} must be a function of the updates so far.'
      )


def check_rising(start: float, end: float, what: str) -> None:
  """Raises `ValueError` if a schedule of `what` starts above its end."""
  if start > end:
    raise ValueError(
      f'start={start!r} must be at most end={end!r}, because {what} grows.'
    )


def check_count(
  name: str, value: Any, *, least: int = 1, or_zero: bool = False
) -> None:
  """Raises `ValueError` unless `value` is an integer of at least `least`.

  Args:
    name: Name of the argument.
    value: Value to check.
    least: Smallest value.
    or_zero: 0 is allowed too.
  """
  is_integer = isinstance(value, numbers.Integral)
  is_zero = or_zero and value == 0
  if (
    not is_integer or isinstance(value, bool) or not (is_zero or value >= least)
  ):
    wanted = (
      'a positive integer' if least == 1 else f'an integer of at least {least}'
    )
    raise ValueError(
      f'{name}={value!r} must be {"0, or " if or_zero else ""}{wanted}.'
    )


def check_rate(
  learning_rate: Any, hint: str = '', name: str = 'learning_rate'
) -> None:
  """Raises `ValueError` unless α is one finite number of at least 0.

  A traced value passes, because its value is unknown.

  Args:
    learning_rate: α.
    hint: What else is allowed.
    name: What has this value.
  """
  if isinstance(learning_rate, jax.core.Tracer):
    is_rate = learning_rate.shape == ()
  else:
    try:
      is_rate = (
        hasattr(learning_rate, '__float__')
        and not isinstance(learning_rate, bool)
        and jnp.shape(learning_rate) == ()
        and 0 <= float(learning_rate) < math.inf
      )
    except (TypeError, ValueError):  # An array of text or objects.
      is_rate = False
  if not is_rate:
    raise ValueError(
      f'{name}={learning_rate!r} must be one finite number of at least 0{hint}.'
    )
