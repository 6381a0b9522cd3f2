"""Programs without branches for single platforms.

`lax.platform_dependent` chooses between forms of an operation, such as those in
`mq_jax.models.cpu`, by the platform that runs the program. Other runtimes than
XLA have no such choice, and take the form for all platforms.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from mq_jax.packing.macs import inner_calls

_INDEX, _CONDITION = 'platform_index', 'cond'


def with_default_forms(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that uses the `default` of `lax.platform_dependent`.

  Args:
    function: Function of arrays, which is traced. Loops with such a choice
      inside are not supported.

  Returns:
    A function of the same arguments and results.
  """

  def run(*args: Any) -> Any:
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    if not _has_choice(closed.jaxpr):
      return function(*args)
    results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)

  return run


def _has_choice(jaxpr: Any) -> bool:
  return any(
    equation.primitive.name == _INDEX
    or any(
      _has_choice(inner) for inner, _ in inner_calls(equation, equation.invars)
    )
    for equation in jaxpr.eqns
  )


def _run(
  jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
  """Evaluates a jaxpr; calls that contain a choice become part of it."""
  values = dict(
    zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
  )

  def value(variable: Any) -> Any:
    is_literal = isinstance(variable, Literal)
    return variable.val if is_literal else values[variable]

  choices = set()
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == _INDEX:
      choices.update(equation.outvars)
      continue
    inputs: Sequence[Any] = equation.invars
    is_choice = name == _CONDITION and not isinstance(inputs[0], Literal)
    if is_choice and inputs[0] in choices:
      # The default comes after the forms of single platforms.
      called, inputs = params['branches'][-1], inputs[1:]
    elif any(_has_choice(inner) for inner, _ in inner_calls(equation, inputs)):
      called = params.get('jaxpr') or params['call_jaxpr']
    else:
      options = equation.primitive.get_bind_params(params)
      results = equation.primitive.bind(*map(value, inputs), **options)
      if not equation.primitive.multiple_results:
        results = [results]
      values.update(zip(equation.outvars, results, strict=True))
      continue
    results = _run(called.jaxpr, called.consts, [*map(value, inputs)])
    values.update(zip(equation.outvars, results, strict=True))
  return [*map(value, jaxpr.outvars)]
