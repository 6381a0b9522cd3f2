"""The LSTM at the points of a grid over each leaf, instead of per coordinate.

Each point has its own memory (h, c). The points follow the range of W̃, and the
memory is interpolated to where the points have moved, so that the memory at a
given W̃ stays what it was. A coordinate that moves along W̃ reads the memory of
its new place, and not its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.estimators import lstm_cell
from mq_jax.estimators.base import Leaves
from mq_jax.estimators.interpolation import grid, interpolate, locate
from mq_jax.estimators.lstm_cell import Memory
from mq_jax.precision import widened

Array = jax.Array


class OnGrid(NamedTuple):
  """The memory after a step, by leaf and point.

  Attributes:
    points: W̃ of each point, (leaves, count).
    memory: h and c of each point, two arrays of (leaves, count, hidden).
  """

  points: Array
  memory: Memory


def empty(leaves: Leaves, count: int, hidden: int, dtype: Any) -> OnGrid:
  """Returns the state before the first step."""
  shape = len(leaves), count
  return OnGrid(jnp.zeros(shape, dtype), lstm_cell.empty(shape, hidden, dtype))


def step(
  phi: lstm_cell.Phi, w_tilde: Leaves, count: int, state: OnGrid | None
) -> OnGrid:
  """Takes one step of the LSTM at the points of each leaf.

  Args:
    phi: φ of the LSTM.
    w_tilde: Path to W̃.
    count: Number of points per leaf.
    state: State after the last step; None means memories of zeros.
  """
  points = jnp.stack([grid(widened(leaf), count) for leaf in w_tilde.values()])
  memory = None
  if state is not None:
    positions = jax.vmap(locate)(state.points, points)
    memory = jax.tree.map(
      lambda part: jax.vmap(_interpolate_rows)(part, positions).reshape(
        -1, part.shape[-1]
      ),
      state.memory,
    )
  after = lstm_cell.cell(phi, points.reshape(-1), memory)
  return OnGrid(
    points, jax.tree.map(lambda part: part.reshape(*points.shape, -1), after)
  )


def factors(values: Array, points: Array, w_tilde: Leaves) -> Leaves:
  """Returns the factor of each coordinate.

  Args:
    values: Factor at each point, (leaves, count).
    points: Points of each leaf, (leaves, count).
    w_tilde: Path to W̃.
  """
  return {
    path: interpolate(at, locate(of_leaf, widened(leaf)))
    for at, of_leaf, (path, leaf) in zip(
      values, points, w_tilde.items(), strict=True
    )
  }


def _interpolate_rows(part: Array, positions: Array) -> Array:
  """Interpolates (count, hidden) to the positions, unit by unit."""
  return jax.vmap(interpolate, (1, None), 1)(part, positions)
