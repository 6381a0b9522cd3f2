"""The floating-point operations of a program, counted from what jax traced.

XLA's own count takes the body of a loop once, however often it runs. This one
counts the multiplications and additions of products and convolutions, those of
a loop as often as it runs, and nothing else.
"""

import math
from typing import Any

import jax


def count(function: Any, *args: Any) -> int:
  """FLOPs of `function(*args)` in its products and convolutions.

  Args:
    function: As `jax.make_jaxpr` takes it.
    *args: Arrays or shapes.

  Returns:
    The number. A condition counts its most expensive branch, a while loop of
    unknown length its body once.
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
  total = 0
  # What nothing reads is traced all the same, and never computed.
  read = {id(var) for var in jaxpr.outvars}
  for equation in reversed(jaxpr.eqns):
    if any(id(var) in read for var in equation.outvars):
      read |= {id(var) for var in equation.invars}
      total += _equation(equation)
  return total


def _equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return (
      2
      * math.prod(equation.outvars[0].aval.shape)
      * math.prod(left[i] for i in contracted)
    )
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    features = kernel[params['dimension_numbers'].rhs_spec[0]]
    taps = math.prod(kernel) // features
    # Steps between the pixels of a dilated input meet zeros only.
    zeros = math.prod(params['lhs_dilation'])
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps // zeros
  if name == 'cond':
    return max(_count(branch.jaxpr) for branch in params['branches'])
  inner = sum(_count(_open(value)) for value in _jaxprs(params))
  return inner * params['length'] if name == 'scan' else inner


def _jaxprs(params: dict[str, Any]) -> list[Any]:
  return [value for value in params.values() if hasattr(_open(value), 'eqns')]


def _open(value: Any) -> Any:
  return getattr(value, 'jaxpr', value)
