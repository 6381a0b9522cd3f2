"""Programs without branches by platform and without loops, for other runtimes.

`lax.platform_dependent` chooses between forms of an operation, such as those in
`mq_jax.models.cpu`, by the platform that runs the program. Other runtimes than
XLA have no such choice, and take the form for all platforms. A loop over
stacked layers becomes one copy of its body per layer, so that each layer can
have kernels of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from mq_jax.packing.macs import inner_calls

_INDEX, _CONDITION, _LOOP, _SELECT = (
  'platform_index',
  'cond',
  'scan',
  'select_n',
)
# Calls of a function, which are replaced by its equations.
_CALLS = frozenset(
  ('jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call', 'remat2')
)


class Layers(tuple[Any, ...]):
  """The layers of a stacked array, for the arguments of `inlined`."""


def inlined(
  function: Callable[..., Any], *specs: Any, for_xla: bool = False
) -> Callable[..., list[Any]]:
  """Returns a function without calls, and without unused operations.

  Args:
    function: Function of pytrees of arrays. It is traced here.
    *specs: Pytrees of the shapes and types of its arguments.
    for_xla: Keep loops and choices between platforms.

  Returns:
    A function of the leaves of the arguments, which returns the leaves of the
    result. `Layers` can take the place of a leaf.
  """
  leaves, tree = jax.tree.flatten(specs)
  closed = jax.make_jaxpr(lambda *x: function(*jax.tree.unflatten(tree, x)))(
    *leaves
  )

  def run(*arguments: Any) -> list[Any]:
    results = _run(closed.jaxpr, closed.consts, arguments, for_xla)
    return [_stacked(result) for result in results]

  return run


def needs_inlining(function: Callable[..., Any], *specs: Any) -> bool:
  """Returns True if a function has a loop or a choice between platforms."""
  return _has_special(jax.make_jaxpr(function)(*specs).jaxpr)


def _has_special(jaxpr: Any) -> bool:
  return any(
    equation.primitive.name in (_INDEX, _LOOP)
    or any(
      _has_special(inner) for inner, _ in inner_calls(equation, equation.invars)
    )
    for equation in jaxpr.eqns
  )


def _stacked(value: Any) -> Any:
  return jnp.stack(value) if isinstance(value, Layers) else value


def _needed(jaxpr: Any) -> list[Any]:
  """Returns the equations that the results depend on, without mere effects."""
  used, kept = set(_variables(jaxpr.outvars)), []
  for equation in reversed(jaxpr.eqns):
    if not used.isdisjoint(equation.outvars):
      kept.append(equation)
      used.update(_variables(equation.invars))
  return kept[::-1]


def _variables(values: Sequence[Any]) -> list[Any]:
  return [value for value in values if not isinstance(value, Literal)]


def _run(
  jaxpr: Any,
  consts: Sequence[Any],
  arguments: Sequence[Any],
  for_xla: bool = False,
) -> list[Any]:
  """Evaluates a jaxpr; calls and loops become part of it."""
  values = dict(
    zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True)
  )

  def value(variable: Any) -> Any:
    is_literal = isinstance(variable, Literal)
    return variable.val if is_literal else values[variable]

  choices = set()
  for equation in _needed(jaxpr):
    name, params = equation.primitive.name, equation.params
    inputs = [*map(value, equation.invars)]
    if name == _INDEX and not for_xla:
      choices.update(equation.outvars)
      values.update(dict.fromkeys(equation.outvars))
      continue
    is_choice = name == _CONDITION and not isinstance(
      equation.invars[0], Literal
    )
    if is_choice and equation.invars[0] in choices:
      # The default comes after the forms of single platforms.
      called = params['branches'][-1]
      results = _run(called.jaxpr, called.consts, inputs[1:])
    elif name in _CALLS:
      called = params.get('jaxpr') or params['call_jaxpr']
      body = getattr(called, 'jaxpr', called)
      own = getattr(called, 'consts', ())
      results = _run(body, own, inputs, for_xla)
    elif name == _LOOP and not for_xla:
      results = _unrolled(equation, inputs)
    else:
      results = _applied(equation, [*map(_stacked, inputs)], for_xla)
    values.update(zip(equation.outvars, results, strict=True))
  return [*map(value, jaxpr.outvars)]


def _applied(equation: Any, inputs: Sequence[Any], for_xla: bool) -> list[Any]:
  """Applies the primitive of an equation."""
  is_choice = equation.primitive.name == _SELECT and len(inputs) == 3
  if is_choice and not for_xla and inputs[0].dtype == inputs[1].dtype == bool:
    # onnxruntime has no choice between booleans.
    which, if_false, if_true = inputs
    return [(which & if_true) | (~which & if_false)]
  options = equation.primitive.get_bind_params(equation.params)
  results = equation.primitive.bind(*inputs, **options)
  return results if equation.primitive.multiple_results else [results]


def _unrolled(equation: Any, inputs: Sequence[Any]) -> list[Any]:
  """Evaluates a `lax.scan` step by step."""
  body = equation.params['jaxpr']

  def count_longer(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """Counts the arrays with an axis of steps, which come last."""
    return sum(
      len(out.aval.shape) > len(of_step.aval.shape)
      for out, of_step in zip(outer, inner, strict=True)
    )

  # The names of the parameters that count them differ between versions of jax.
  scanned = count_longer(equation.invars, body.jaxpr.invars)
  made = count_longer(equation.outvars, body.jaxpr.outvars)
  carried = len(equation.outvars) - made
  first = len(inputs) - scanned
  constants, over = inputs[: first - carried], inputs[first:]
  carry = [*map(_stacked, inputs[first - carried : first])]
  steps: list[list[Any]] = []
  for step in range(equation.params['length']):
    if equation.params['reverse']:
      step = equation.params['length'] - 1 - step
    results = _run(
      body.jaxpr, body.consts, [*constants, *carry, *(x[step] for x in over)]
    )
    carry, steps = results[:carried], [*steps, results[carried:]]
  if equation.params['reverse']:
    steps = steps[::-1]
  if not steps:
    shapes = [variable.aval for variable in equation.outvars[carried:]]
    return [*carry, *(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)]
  return [*carry, *(Layers(outputs) for outputs in zip(*steps, strict=True))]
