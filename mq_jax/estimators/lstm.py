"""LSTMFC: a meta quantizer with a memory, eq. (11)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.checks import check_count, check_switch
from mq_jax.estimators import coordinates, lstm_cell, lstm_grid, stacks
from mq_jax.estimators.base import (
  GradientEstimator,
  Leaves,
  Signals,
  phi_dtype,
  times,
)
from mq_jax.precision import widened
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def lstm_fc(
  *,
  hidden: int = 100,
  carry: bool = True,
  init: str = 'random',
  memory_dtype: Any = None,
  grid_points: int = 0,
) -> GradientEstimator:
  """Makes LSTMFC, eq. (11): g_W̃ = g_Ŵ · FC(φ_FC, LSTM(φ_LSTM, W̃)).

  φ consists of one LSTM layer with two bias vectors and a linear head with a
  bias, all drawn from U(±1/sqrt(hidden)). The gradient of φ does not pass
  through the memory into earlier steps.

  Args:
    hidden: Number of hidden units.
    carry: True if each coordinate keeps its (h, c) from step to step. If False,
      each step starts from zeros, as in the logs of the paper.
    init: Start of φ, 'random' or 'identity'. 'identity' starts exactly at the
      straight-through rule: the factor multiplies g_ste instead of g_Ŵ, and the
      head starts with weights 0 and a bias of 1.
    memory_dtype: dtype in which (h, c) are kept between steps; jnp.bfloat16
      halves their size. None keeps the dtype of the weights, at least float32.
      The LSTM computes in the dtype of the weights in either case.
    grid_points: 0 evaluates the LSTM at every coordinate, as the paper does. K,
      at least 2, evaluates the LSTM at K points of an even grid over the W̃ of
      each leaf. The factor is linear between points. Each point keeps its own
      (h, c), which does not follow a coordinate that moves (`lstm_grid`). All
      W̃ must be finite.

  Returns:
    A `GradientEstimator`. Its state takes 2 · hidden numbers per coordinate, or
    per point of each leaf.

  Raises:
    ValueError: If an argument is out of range, or if both `memory_dtype` and
      `grid_points` are given.
    TypeError: If `carry` is not a bool.
  """
  check_count('hidden', hidden)
  check_switch(carry=carry)
  identity = stacks.is_identity(init)
  if memory_dtype is not None and not jnp.issubdtype(
    memory_dtype, jnp.floating
  ):
    raise ValueError(
      f'memory_dtype={memory_dtype!r} must be a floating point type, such as'
      ' jnp.bfloat16, or None.'
    )
  check_count('grid_points', grid_points, least=2, or_zero=True)
  if grid_points and memory_dtype is not None:
    raise ValueError(
      'memory_dtype is the type of a memory per coordinate, but with'
      f' grid_points={grid_points} each point has a memory. Leave memory_dtype'
      ' or grid_points at its default.'
    )

  def init_phi(key: Array, leaves: Leaves) -> Any:
    lstm_key, head_key = jax.random.split(key)
    dtype = phi_dtype(leaves)
    head = stacks.init_layer(head_key, (hidden, 1), True, dtype)
    return {
      'lstm': lstm_cell.init(lstm_key, hidden, dtype),
      'head': stacks.constant_one(head) if identity else head,
    }

  def init_state(key: Array, leaves: Leaves) -> Any:
    del key  # Every memory starts empty.
    if not carry:
      return ()
    if grid_points:
      return lstm_grid.empty(leaves, grid_points, hidden, phi_dtype(leaves))
    return lstm_cell.no_history(leaves, hidden, phi_dtype(leaves), memory_dtype)

  def factor_of_block(phi: Any, inputs: tuple[Array, Any]) -> Array:
    x, memory = inputs
    if carry:
      memory = jax.tree.map(
        lambda part: lstm_cell.widen(part, x.dtype, memory_dtype), memory
      )
    h = lstm_cell.cell(phi['lstm'], x, memory).h
    return stacks.linear(phi['head'], h)[:, 0]

  def factor_of_each(
    phi: Any, w_tilde: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    blocks = widened(coordinates.to_blocks(w_tilde))
    memory = lstm_cell.recall(state, memory_dtype) if carry else None
    factor = coordinates.from_blocks(
      coordinates.map_blocks(factor_of_block, phi, (blocks, memory)), w_tilde
    )
    if memory is not None:
      # Later steps treat the state as a constant, so its derivative with
      # respect to the φ of this step is never used.
      state = lax.stop_gradient(lstm_cell.History(memory, phi['lstm'], blocks))
    return factor, state

  def factor_on_grid(
    phi: Any, w_tilde: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    # As at every coordinate, W̃ and the memory are constants.
    w_tilde, state = lax.stop_gradient((w_tilde, state))
    after = lstm_grid.step(
      phi['lstm'], w_tilde, grid_points, state if carry else None
    )
    values = stacks.linear(phi['head'], after.memory.h.reshape(-1, hidden))
    factor = lstm_grid.factors(
      values.reshape(after.points.shape), after.points, w_tilde
    )
    return factor, lax.stop_gradient(after) if carry else ()

  def apply(phi: Any, signals: Signals, state: Any) -> tuple[Leaves, Any]:
    factor_of = factor_on_grid if grid_points else factor_of_each
    factor, state = factor_of(phi, signals.w_tilde, state)
    return times(signals.g_ste if identity else signals.g_hat, factor), state

  return GradientEstimator(
    init=init_phi, init_state=init_state, apply=apply, factor=lambda phi: {}
  )
