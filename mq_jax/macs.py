"""How many products each weight takes part in, counted from what jax traced."""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from mq_jax.packing import unpack
from mq_jax.selection import named_leaves


def layer_macs(
  params: Any, apply_fn: Callable[..., Any], *inputs: Any
) -> dict[str, int]:
  """Multiplications of each leaf in dense layers and convolutions.

  Args:
    params: Pytree of arrays, `PackedArray`s among them or not.
    apply_fn: `(params, *inputs)`, the network. It is traced, not computed.
    *inputs: Arrays or shapes.

  Returns:
    Path to the number, for leaves that are an operand of a product; a loop
    counts as often as it runs, a while loop of unknown length once, and of a
    condition the branch that takes most.
  """
  shapes = jax.eval_shape(unpack, params)
  jaxpr = jax.make_jaxpr(apply_fn)(shapes, *inputs).jaxpr
  paths = list(named_leaves(shapes))
  total = count(jaxpr, paths)
  return {path: total[path] for path in paths if total[path]}


def count(
  jaxpr: Any, leaves: Sequence[str] = ()
) -> collections.Counter[str | None]:
  """Counts the multiplications in products and convolutions of a jaxpr.

  Args:
    jaxpr: The jaxpr, counted as `layer_macs` says.
    leaves: Paths of the leaves that the first arguments hold.

  Returns:
    Path to the multiplications of the leaf; None to those of all products.
  """
  return _counted(jaxpr, leaves, times=1)[0]


def products(equation: Any) -> int:
  """Multiplications of one equation of a jaxpr; 0 if it is no product."""
  params = equation.params
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    outputs = math.prod(equation.outvars[0].aval.shape)
    return outputs * math.prod(left[i] for i in contracted)
  if equation.primitive.name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    features = kernel[params['dimension_numbers'].rhs_spec[0]]
    taps = math.prod(kernel) // features
    # Steps between the pixels of a dilated input meet zeros only.
    zeros = math.prod(params['lhs_dilation'])
    return math.prod(equation.outvars[0].aval.shape) * taps // zeros
  return 0


def inner_jaxprs(equation: Any) -> list[Any]:
  """The jaxprs that an equation calls, of a condition all its branches."""
  params = equation.params
  if equation.primitive.name == 'while':
    return [params['cond_jaxpr'].jaxpr, params['body_jaxpr'].jaxpr]
  given = [*params.values(), *params.get('branches', ())]
  opened = [getattr(value, 'jaxpr', value) for value in given]
  return [value for value in opened if hasattr(value, 'eqns')]


def _shape(var: Any) -> tuple[int, ...]:
  shape: tuple[int, ...] = var.aval.shape
  return shape


def _arguments(
  equation: Any, inputs: list[str | None]
) -> Iterator[list[str | None]]:
  """What each of the inner jaxprs is called with."""
  if equation.primitive.name == 'while':
    first = equation.params['cond_nconsts']
    second = first + equation.params['body_nconsts']
    for own in (inputs[:first], inputs[first:second]):
      yield [*own, *inputs[second:]]
    return
  for inner in inner_jaxprs(equation):
    # The index of a condition comes before.
    yield inputs[len(inputs) - len(inner.invars) :]


def _counted(
  jaxpr: Any, arguments: Sequence[str | None], times: int
) -> tuple[collections.Counter[str | None], list[str | None]]:
  total = collections.Counter[str | None]()
  return total, _count(jaxpr, arguments, total, times)


def _count(
  jaxpr: Any,
  arguments: Sequence[str | None],
  total: collections.Counter[str | None],
  times: int,
) -> list[str | None]:
  """Adds the products of `jaxpr` to `total`.

  Args:
    jaxpr: To be run `times` times.
    arguments: The leaf that each argument stands for, or None.
    total: Path to products so far; None to those of all products.
    times: How often it runs.

  Returns:
    The leaf that each result stands for, or None.
  """
  # By identity: literals have no hash.
  names = {
    id(var): name
    for var, name in zip(jaxpr.invars, arguments, strict=False)
    if name
  }
  for equation in jaxpr.eqns:
    inputs = [names.get(id(var)) for var in equation.invars]
    leaves = {name for name in inputs if name}
    results: Sequence[str | None] = ()
    work = products(equation)
    for name in (None, *leaves):
      total[name] += times * work
    # A leaf is itself in another dtype, shape or scale, and each of its parts.
    others = [var for var in equation.invars if id(var) not in names]
    if len(leaves) == 1 and not work and not any(map(_shape, others)):
      results = [*leaves] * len(equation.outvars)
    runs = times * equation.params.get('length', 1)
    branches = [
      _counted(inner, own, runs)
      for inner, own in zip(
        inner_jaxprs(equation), _arguments(equation, inputs), strict=True
      )
    ]
    if equation.primitive.name == 'cond':
      branches = [max(branches, key=lambda branch: branch[0][None])]
    for found, _ in branches:
      for name, number in found.items():
        total[name] += number
    if branches:
      results = branches[-1][1]
    names |= {
      id(var): name
      for var, name in zip(equation.outvars, results, strict=False)
      if name
    }
  return [names.get(id(var)) for var in jaxpr.outvars]
