"""Arithmetic of narrow dtypes."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def widened(x: Array) -> Array:
  """Returns `x` in float32, or in its own dtype if that is wider.

  Sums of float16 overflow above 65504 and squares underflow below 1e-4; moving
  averages in bfloat16 do not move by less than 0.4 percent.
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def strong(x: Any) -> Any:
  """Returns `x`, with a strong dtype if it is an array of weak dtype."""
  return jnp.asarray(x, x.dtype) if getattr(x, 'weak_type', False) else x
