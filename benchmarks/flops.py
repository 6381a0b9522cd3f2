"""The floating-point operations of a program, counted from what jax traced.

XLA's own count takes the body of a loop once, however often it runs. This one
counts the multiplications and additions of products and convolutions, those of
a loop as often as it runs, and nothing else.
"""

from typing import Any

import jax

from mq_jax.packing import macs


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
  if equation.primitive.name == 'cond':
    return max(_count(inner) for inner in macs.inner_jaxprs(equation))
  inner = sum(_count(inner) for inner in macs.inner_jaxprs(equation))
  runs = equation.params['length'] if equation.primitive.name == 'scan' else 1
  return 2 * macs.products(equation) + runs * inner
