"""How many products each weight takes part in, counted from what jax traced."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mq_jax.packing import unpack
from mq_jax.selection import named_leaves

# Operations whose result stands for the weight that goes in, in another form.
_SAME = (
  *('convert_element_type', 'reshape', 'transpose', 'squeeze', 'copy', 'rev'),
  *('broadcast_in_dim', 'expand_dims', 'stop_gradient', 'sharding_constraint'),
)


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
    counts as often as it runs, a while loop of unknown length once.
  """
  shapes = jax.eval_shape(unpack, params)
  jaxpr = jax.make_jaxpr(apply_fn)(shapes, *inputs).jaxpr
  paths = list(named_leaves(shapes))
  total = dict.fromkeys(paths, 0)
  _count(jaxpr, [*paths, *[None] * len(jaxpr.invars)], total, times=1)
  return {path: number for path, number in total.items() if number}


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
  given = [*equation.params.values(), *equation.params.get('branches', ())]
  opened = [getattr(value, 'jaxpr', value) for value in given]
  return [value for value in opened if hasattr(value, 'eqns')]


def _count(
  jaxpr: Any,
  arguments: Sequence[str | None],
  total: dict[str, int],
  times: int,
) -> list[str | None]:
  """Adds the products of `jaxpr` to `total`.

  Args:
    jaxpr: To be run `times` times.
    arguments: The leaf that each argument stands for, or None.
    total: Path to products so far.
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
    if equation.primitive.name in _SAME and len(leaves) == 1:
      results = [*leaves]
    for name in leaves:
      total[name] += times * products(equation)
    runs = times * equation.params.get('length', 1)
    for inner in inner_jaxprs(equation):
      # What a condition or a loop takes beside comes first.
      own = inputs[len(inputs) - len(inner.invars) :]
      results = _count(inner, own, total, runs)
    names |= {
      id(var): name
      for var, name in zip(equation.outvars, results, strict=False)
      if name
    }
  return [names.get(id(var)) for var in jaxpr.outvars]
