"""Functions of one coordinate, known at a few points and linear between them.

A meta quantizer that reads W̃ alone is a smooth function of W̃ in each layer. The
function is evaluated at the points of an even grid over the range of the layer,
instead of at every coordinate.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def grid(x: Array, count: int) -> tuple[Array, Array]:
  """Returns an even grid from the minimum of `x` to its maximum.

  Args:
    x: Coordinates, any shape, at least one.
    count: Number of points, at least 2.

  Returns:
    `(points, positions)`: the values of the points, shape (count,), and each
    coordinate in units of the grid, from 0 to count − 1, with the shape of `x`.
    If all coordinates are equal, so are the points, and the positions are 0.
  """
  least, range_ = jnp.min(x), jnp.ptp(x)
  last = count - 1
  points = least + range_ * (jnp.arange(count, dtype=x.dtype) / last)
  return points, (x - least) / jnp.where(range_ > 0, range_, 1) * last


def interpolate(values: Array, positions: Array) -> Array:
  """Returns the function at the positions, linear between two points.

  Only reverse mode is supported, and `positions` is a constant. The sum over
  coordinates in the backward pass has a fixed order on every device, unlike the
  atomic additions of a scatter.

  Args:
    values: Values at the points, shape (count,).
    positions: Positions from `grid`, any shape.
  """
  return values[0] + _rise(jnp.diff(values), lax.stop_gradient(positions))


@jax.custom_vjp
def _rise(steps: Array, positions: Array) -> Array:
  """Returns the sum of the steps up to each position, the last one in part."""

  def add(k: Array, total: Array) -> Array:
    return total + steps[k] * _share(positions, k)

  return lax.fori_loop(0, len(steps), add, jnp.zeros_like(positions))


def _share(positions: Array, k: Array) -> Array:
  """Returns the share of step k that lies below each position, 0 to 1."""
  return jnp.clip(positions - k, 0, 1)


def _forward(
  steps: Array, positions: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _rise(steps, positions), (steps, positions)


def _backward(
  residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None]:
  steps, positions = residuals
  # A map needs the memory of one point, a broadcast that of all of them.
  return lax.map(
    lambda k: jnp.sum(cotangent * _share(positions, k)),
    jnp.arange(len(steps)),
  ), None


_rise.defvjp(_forward, _backward)
