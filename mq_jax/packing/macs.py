"""Multiplications of each weight, counted in the jaxpr of the network."""

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from mq_jax.packing.packed_params import unpack
from mq_jax.selection import named_leaves


def layer_macs(
  params: Any, apply_fn: Callable[..., Any], *inputs: Any
) -> dict[str, int]:
  """Counts the multiplications of each leaf in dense layers and convolutions.

  Args:
    params: Pytree of arrays, which may contain `PackedArray`s.
    apply_fn: The network, `(params, *inputs) -> outputs`. It is traced, not
      computed.
    *inputs: Arrays or shapes.

  Returns:
    Path to number of multiplications, for leaves that are an operand of a
    product. A loop counts once per iteration, a while loop of unknown length
    once, and a condition by the branch with the most multiplications.
  """
  shapes = jax.eval_shape(unpack, params)
  jaxpr = jax.make_jaxpr(apply_fn)(shapes, *inputs).jaxpr
  paths = list(named_leaves(shapes))
  total = dict.fromkeys(paths, 0)
  _count(jaxpr, [*paths, *[None] * len(jaxpr.invars)], total, runs=1)
  return {path: number for path, number in total.items() if number}


def products(equation: Any) -> int:
  """Returns the multiplications of one equation of a jaxpr, 0 if no product."""
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


def inner_jaxprs(equation: Any) -> list[Any]:
  """Returns the jaxprs that an equation calls, all branches of a condition."""
  params = equation.params
  if equation.primitive.name == 'while':
    return [params['cond_jaxpr'].jaxpr, params['body_jaxpr'].jaxpr]
  candidates = [*params.values(), *params.get('branches', ())]
  opened = [getattr(value, 'jaxpr', value) for value in candidates]
  return [value for value in opened if hasattr(value, 'eqns')]


def _shape(var: Any) -> tuple[int, ...]:
  shape: tuple[int, ...] = var.aval.shape
  return shape


def _arguments(
  equation: Any, inputs: list[str | None]
) -> Iterator[list[str | None]]:
  """Yields the arguments of each inner jaxpr."""
  if equation.primitive.name == 'while':
    condition_end = equation.params['cond_nconsts']
    body_end = condition_end + equation.params['body_nconsts']
    for constants in (inputs[:condition_end], inputs[condition_end:body_end]):
      yield [*constants, *inputs[body_end:]]
    return
  for inner in inner_jaxprs(equation):
    # The index of a condition precedes the arguments of its branches.
    yield inputs[len(inputs) - len(inner.invars) :]


def _counted(
  jaxpr: Any, arguments: Sequence[str | None], runs: int
) -> tuple[dict[str, int], list[str | None]]:
  total = collections.Counter[str]()
  return total, _count(jaxpr, arguments, total, runs)


def _count(
  jaxpr: Any, arguments: Sequence[str | None], total: dict[str, int], runs: int
) -> list[str | None]:
  """Adds the products of `jaxpr` to `total`.

  Args:
    jaxpr: A jaxpr.
    arguments: Path of the leaf that each argument holds, or None.
    total: Path to number of products so far.
    runs: Number of times that `jaxpr` runs.

  Returns:
    Path of the leaf that each result holds, or None.
  """
  # Variables are keyed by identity because literals are not hashable.
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
    for name in leaves:
      total[name] += runs * work
    # A leaf in another dtype, shape or scale, or a part of it, counts as the
    # leaf.
    others = [var for var in equation.invars if id(var) not in names]
    if len(leaves) == 1 and not work and not any(map(_shape, others)):
      results = [*leaves] * len(equation.outvars)
    inner_runs = runs * equation.params.get('length', 1)
    branches = [
      _counted(inner, inner_arguments, inner_runs)
      for inner, inner_arguments in zip(
        inner_jaxprs(equation), _arguments(equation, inputs), strict=True
      )
    ]
    if equation.primitive.name == 'cond':
      branches = [max(branches, key=lambda branch: sum(branch[0].values()))]
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
