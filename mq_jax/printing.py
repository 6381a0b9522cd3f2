"""Texts of values: quantizers and estimators print as the call of a factory."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import optax

P = ParamSpec('P')
T = TypeVar('T', bound=Any)


def prints_call(factory: Callable[P, T]) -> Callable[P, T]:
  """Decorates the factory of a NamedTuple that has a field `call`.

  The field contains the call without arguments at their defaults, such as
  `bwn(clip=None)`. A function prints as its name.
  """
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args: P.args, **kwargs: P.kwargs) -> T:
    try:
      bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
      raise TypeError(
        f'{factory.__name__}: {error}. Call it as'
        f' {factory.__name__}({_usage(signature)}).'
      ) from None
    parameters = signature.parameters
    texts = [
      _text(value)
      if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY
      else f'{name}={_text(value)}'
      for name, value in bound.items()
      if not _is_default(value, parameters[name].default)
    ]
    call = f'{factory.__name__}({", ".join(texts)})'
    return factory(*args, **kwargs)._replace(call=call)

  return make


def _usage(signature: inspect.Signature) -> str:
  """Returns the arguments of a call; those to pass by name end with =..."""
  return ', '.join(
    f'{name}=...' if parameter.kind is parameter.KEYWORD_ONLY else name
    for name, parameter in signature.parameters.items()
  )


def describe(value: Any) -> str:
  """Returns a short description of a value of the wrong type."""
  if inspect.isroutine(value):
    return f'the function {value.__name__}, which is not called'
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    return f'an array {value.dtype}{list(value.shape)}'
  text = repr(value)
  return text if len(text) < 60 else f'a {type(value).__name__}'


def _is_default(value: Any, default: Any) -> bool:
  return value is default or (
    isinstance(value, bool | int | float | str | np.generic)
    and isinstance(default, bool | int | float | str)
    and bool(value == default)
  )


def _text(value: Any) -> str:
  if isinstance(value, optax.GradientTransformation):
    return 'GradientTransformation'
  # Equal options have equal texts, because states are compared by them.
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, list):
    value = tuple(value)
  return getattr(value, '__name__', None) or repr(value)
