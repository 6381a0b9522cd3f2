"""Multiplications of each weight, counted in the jaxpr of the network."""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mq_jax.packing.packed_params import unpack
from mq_jax.selection import named_leaves

# Marks a value that depends neither on a leaf nor on an input of the network.
CONSTANT = ''


def layer_macs(
  params: Any, apply_fn: Callable[..., Any], *inputs: Any
) -> dict[str, int]:
  """Counts the multiplications of each leaf in dense layers and convolutions.

  Args:
    params: Pytree of arrays, which may contain `PackedArray`s.
    apply_fn: The network, `(params, *inputs) -> outputs`, which is only traced.
    *inputs: Arrays or shapes.

  Returns:
    Path to number of multiplications, for leaves that are an operand of a
    product, also if they are combined with smaller leaves before, such as the
    scales of the channels. A loop counts once per iteration, and a while loop
    of unknown length once. A condition counts as the branch with the most
    multiplications.
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
    jaxpr: A jaxpr.
    leaves: Paths of the leaves that the first arguments hold.

  Returns:
    Number of multiplications of each leaf by path; the key None holds the
    total.
  """
  sizes = {
    path: math.prod(var.aval.shape)
    for path, var in zip(leaves, jaxpr.invars, strict=False)
  }
  inputs = [None] * (len(jaxpr.invars) - len(leaves))
  return _count(jaxpr, [*leaves, *inputs], sizes)[0]


def products(equation: Any) -> int:
  """Returns the number of multiplications in one equation of a jaxpr."""
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
    # The positions between the pixels of a dilated input are zeros.
    zeros = math.prod(params['lhs_dilation'])
    return math.prod(equation.outvars[0].aval.shape) * taps // zeros
  return 0


def inner_calls(
  equation: Any, inputs: Sequence[Any]
) -> list[tuple[Any, Sequence[Any]]]:
  """Returns each jaxpr that an equation calls, with its share of `inputs`."""
  params = equation.params
  if equation.primitive.name == 'while':
    condition_end = params['cond_nconsts']
    body_end = condition_end + params['body_nconsts']
    condition_inputs = [*inputs[:condition_end], *inputs[body_end:]]
    return [
      (params['cond_jaxpr'].jaxpr, condition_inputs),
      (params['body_jaxpr'].jaxpr, inputs[condition_end:]),
    ]
  candidates = [*params.values(), *params.get('branches', ())]
  opened = [getattr(value, 'jaxpr', value) for value in candidates]
  inner = [value for value in opened if hasattr(value, 'eqns')]
  # The index of a condition precedes the arguments of its branches.
  return [(value, inputs[len(inputs) - len(value.invars) :]) for value in inner]


def _count(
  jaxpr: Any,
  arguments: Sequence[str | None],
  sizes: Mapping[str, int],
  runs: int = 1,
) -> tuple[collections.Counter[str | None], list[str | None]]:
  """Counts the multiplications in a jaxpr and follows the leaves through it.

  Args:
    jaxpr: A jaxpr.
    arguments: What each argument holds: the path of a leaf, `CONSTANT`, or None
      for a value that depends on the inputs of the network.
    sizes: Path to number of weights.
    runs: Number of times that `jaxpr` runs.

  Returns:
    `(total, results)`: the result of `count`, and what each result holds.
  """
  total = collections.Counter[str | None]()
  # Variables are keyed by identity because literals are not hashable.
  held = dict(zip(map(id, jaxpr.invars), arguments, strict=False))
  held |= dict.fromkeys(map(id, jaxpr.constvars), CONSTANT)

  def held_by(variables: Sequence[Any]) -> list[str | None]:
    # Only literals have a value.
    return [
      CONSTANT if hasattr(var, 'val') else held.get(id(var))
      for var in variables
    ]

  for equation in jaxpr.eqns:
    inputs = held_by(equation.invars)
    work = products(equation)
    for name in (None, *{name for name in inputs if name}):
      total[name] += runs * work
    results = [_result(equation, inputs, sizes)] * len(equation.outvars)
    inner_runs = runs * equation.params.get('length', 1)
    if equation.primitive.name in ('scan', 'while'):
      # A loop can replace a constant by a value that depends on the inputs.
      inputs = [name or None for name in inputs]
    branches = [
      _count(inner, inner_arguments, sizes, inner_runs)
      for inner, inner_arguments in inner_calls(equation, inputs)
    ]
    if equation.primitive.name == 'cond':
      branches = [max(branches, key=lambda branch: branch[0][None])]
    for found, _ in branches:
      total.update(found)
    if branches:
      results = branches[-1][1]
    held |= dict(zip(map(id, equation.outvars), results, strict=False))
  return total, held_by(jaxpr.outvars)


def _result(
  equation: Any, inputs: Sequence[str | None], sizes: Mapping[str, int]
) -> str | None:
  """Returns what the result of an equation holds.

  A leaf that is cast, reshaped, sliced, scaled by a scalar, or combined with
  smaller leaves and constants still counts as the leaf.
  """
  shapes = [var.aval.shape for var in equation.invars]
  if any(
    name is None and shape != ()
    for name, shape in zip(inputs, shapes, strict=True)
  ):
    return None
  leaves = [name for name in inputs if name]
  if leaves:
    return max(leaves, key=lambda path: sizes[path])
  return None if None in inputs else CONSTANT
