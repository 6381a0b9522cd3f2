"""Functions of one coordinate, known at a few points and linear between them.

A meta quantizer that reads W̃ alone is a smooth function of W̃ in each leaf. The
function is evaluated at the points of an even grid over the range of the leaf,
instead of at every coordinate.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def grid(x: Array, count: int) -> Array:
  """Returns an even grid from the minimum of `x` to its maximum.

  Args:
    x: Coordinates, any shape, at least one, all finite.
    count: Number of points, at least 2.

  Returns:
    The points in ascending order, shape (count,).
  """
  shares = jnp.arange(count, dtype=x.dtype) / (count - 1)
  return jnp.min(x) + jnp.ptp(x) * shares


def locate(points: Array, x: Array) -> Array:
  """Returns coordinates in units of a grid, from 0 to count − 1.

  Args:
    points: Points from `grid`. If all are equal, a coordinate at them is at 0.
    x: Coordinates, any shape. Those outside of the grid are at its nearer end.
  """
  range_ = points[-1] - points[0]
  share = (x - points[0]) / jnp.where(range_ > 0, range_, 1)
  return jnp.clip(share, 0, 1) * (len(points) - 1)


@jax.custom_vjp
def interpolate(values: Array, positions: Array) -> Array:
  """Returns the function at the positions, linear between two points.

  Only reverse mode is supported, and `positions` is a constant. The backward
  pass sums over the coordinates in a fixed order on every device, unlike the
  atomic additions of a scatter.

  Args:
    values: Values at the points, shape (count,).
    positions: Positions from `locate`, any shape.
  """
  below = jnp.clip(positions.astype(jnp.int32), 0, len(values) - 2)
  share = positions - below
  return values[below] + share * (values[below + 1] - values[below])


def _forward(
  values: Array, positions: Array
) -> tuple[Array, tuple[Array, Array]]:
  return interpolate(values, positions), (values, positions)


def _backward(
  residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None]:
  values, positions = residuals

  def of_point(k: Array) -> Array:
    weight = jnp.maximum(1 - jnp.abs(positions - k), 0)
    return jnp.sum(cotangent * weight).astype(values.dtype)

  # A map needs the memory of one point, a broadcast that of all of them.
  return lax.map(of_point, jnp.arange(len(values))), None


interpolate.defvjp(_forward, _backward)
