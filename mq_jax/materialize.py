"""A workaround that makes XLA's CPU compiler compute a value only once.

The compiler fuses a chain of cheap operations into every reader of the result,
and each reader recomputes the chain. After a few residual blocks, recomputation
costs more than the convolutions of the blocks. In addition, the compiler does
not vectorize a loop that reads and writes the same array if it fuses the read
and the write. `optimization_barrier` does not help because XLA removes it
before fusion.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def materialize(
  function: Callable[..., Any], *operands: Any, never: jax.Array
) -> Any:
  """Returns `function(*operands)`, computed once on CPU for all readers.

  Args:
    function: Maps the operands to a pytree of floating point arrays.
    *operands: Pytrees of arrays, or None.
    never: A boolean that is always false, although the compiler cannot prove
      it. It is the predicate of a condition, because the compiler does not fuse
      into the branches of a condition. If `never` is true, the result is NaN.

  Returns:
    The result of `function`.
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
