"""A loss whose gradients are computed for one part of the batch after another.

A batch that is too large for the memory of a device is split into parts. The
loss is the mean over the parts, and so are the gradients, which are computed
together with the loss: memory holds the intermediate results of one part.
Batch normalisation normalises each part by its own statistics.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
LossFn = Callable[..., tuple[Array, tuple[Any, dict[str, Array]]]]


def accumulated(loss_fn: LossFn, parts: int) -> LossFn:
  """Returns the loss of a batch that is computed part by part.

  Part i has the examples i, i + parts, i + 2 · parts, …, so that devices which
  share the batch share each part too, if their number divides its size.

  Args:
    loss_fn: `(params, batch_stats, batch, rng) -> (loss, (batch_stats,
      metrics))`, a mean over the examples.
    parts: Number of parts, which divides the size of a batch.

  Returns:
    Function like `loss_fn`. It has a custom backward rule with respect to
    `params`, for reverse-mode differentiation only; the other arguments have no
    gradient. Batch statistics pass from part to part.
  """
  if parts == 1:
    return loss_fn

  def part_of(batch: Any, index: Any) -> Any:
    return jax.tree.map(
      lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:])[:, index], batch
    )

  def over_parts(function: Callable[..., Any], batch_stats: Any) -> Any:
    """Returns the last statistics, and the mean of the other results."""
    # On CPU, a convolution in a loop of XLA is about forty times slower than
    # outside of a loop.
    if jax.default_backend() == 'cpu':
      rows = []
      for index in range(parts):
        batch_stats, row = function(batch_stats, index)
        rows.append(row)
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    else:
      batch_stats, stacked = lax.scan(function, batch_stats, jnp.arange(parts))
    return batch_stats, jax.tree.map(lambda leaf: leaf.mean(axis=0), stacked)

  def values(params: Any, batch_stats: Any, batch: Any, rng: Array) -> Any:
    def value(stats: Any, index: Any) -> Any:
      loss, (stats, metrics) = loss_fn(
        params, stats, part_of(batch, index), jax.random.fold_in(rng, index)
      )
      return stats, (loss, metrics)

    new_stats, (loss, metrics) = over_parts(value, batch_stats)
    return loss, (new_stats, metrics)

  def forward(params: Any, batch_stats: Any, batch: Any, rng: Array) -> Any:
    def value_and_grad(stats: Any, index: Any) -> Any:
      (loss, (stats, metrics)), grads = jax.value_and_grad(
        loss_fn, has_aux=True
      )(params, stats, part_of(batch, index), jax.random.fold_in(rng, index))
      return stats, (loss, metrics, grads)

    new_stats, (loss, metrics, grads) = over_parts(value_and_grad, batch_stats)
    return (loss, (new_stats, metrics)), grads

  def backward(grads: Any, cotangents: Any) -> Any:
    d_loss, _ = cotangents
    return (
      jax.tree.map(lambda g: (d_loss * g).astype(g.dtype), grads),
      *(None, None, None),
    )

  result = jax.custom_vjp(values)
  result.defvjp(forward, backward)
  return result
