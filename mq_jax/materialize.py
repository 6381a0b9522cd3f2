"""A way to have XLA's CPU compiler compute something once.

It fuses a chain of cheap operations into every reader of its result, which then
computes the chain anew: behind a few residual blocks that costs more than their
convolutions do. And a loop that writes to what it reads is not vectorised where
the two are fused. `optimization_barrier` is dropped before that happens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def materialize(
  function: Callable[..., Any], *operands: Any, never: jax.Array
) -> Any:
  """`function(*operands)`, computed once on CPU, whoever reads it.

  Args:
    function: From the operands to a pytree of floating point arrays.
    *operands: Pytrees of arrays, or None.
    never: A boolean that is never true, which the compiler cannot know: it does
      not look into the branches of a condition. Where it is true after all, the
      result is NaN.

  Returns:
    What `function` returns.
  """

  def poisoned(*operands: Any) -> Any:
    return jax.tree.map(
      lambda leaf: jnp.full_like(leaf, jnp.nan), function(*operands)
    )

  return lax.platform_dependent(
    *operands,
    cpu=lambda *operands: lax.cond(never, poisoned, function, *operands),
    default=function,
  )
