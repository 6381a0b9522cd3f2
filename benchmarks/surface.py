"""Draws the loss around trained networks, in two random directions.

References:
  Li, Xu, Taylor, Studer, Goldstein. Visualizing the Loss Landscape of Neural
  Nets. 2018. Section 4: directions are normalised filter by filter.
  https://arxiv.org/abs/1712.09913
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.build import losses
from mq_jax import selection

STEPS = np.linspace(-1, 1, 9)
CENTRE = len(STEPS) // 2
LARGEST_LOSS = 5.0  # Larger losses would hide the centre.


def direction(params: Any, seed: int) -> dict[str, jax.Array]:
  """Returns a random direction whose filters have the norms of the weights.

  Norms and biases do not move. A filter is a slice of the last axis.
  """
  rng = np.random.default_rng(seed)
  moves = {}
  for path, leaf in selection.named_leaves(params).items():
    if leaf.ndim < 2:
      continue
    move = rng.normal(size=leaf.shape)
    axes = tuple(range(leaf.ndim - 1))
    norm = np.linalg.norm(np.asarray(leaf).reshape(-1, leaf.shape[-1]), axis=0)
    length = np.sqrt((move**2).sum(axis=axes))
    moves[path] = jnp.asarray(move * (norm / length), leaf.dtype)
  return moves


def losses_around(
  net: Any, params: Any, batch_stats: Any, batch: Any
) -> np.ndarray:
  """Returns the mean loss at each point of the grid `STEPS` by `STEPS`."""
  sums, size = losses.make_evaluation(net), float(batch['mask'].sum())
  moves = [direction(params, seed) for seed in (0, 1)]
  leaves = selection.named_leaves(params)

  @jax.jit
  def loss(a: jax.Array, b: jax.Array) -> jax.Array:
    moved = {
      path: leaves[path] + a * moves[0][path] + b * moves[1][path]
      for path in moves[0]
    }
    at = selection.replace(params, leaves | moved)
    return sums(at, batch_stats, batch)['loss'] / size

  return np.array([[float(loss(a, b)) for a in STEPS] for b in STEPS])


def draw(net: Any, models: Mapping[str, Any], batch: Any, path: str) -> None:
  """Draws one panel per network.

  Args:
    net: Linen module.
    models: Name of a network to its model file.
    batch: Batch of the test.
    path: Image to write.
  """
  figure = Figure(figsize=(3.4 * len(models), 3.2), layout='constrained')
  panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
  levels = np.linspace(0, LARGEST_LOSS, 21)
  for panel, (name, model) in zip(panels, models.items(), strict=True):
    values = losses_around(net, model.params, model.batch_stats, batch)
    filled = panel.contourf(
      STEPS, STEPS, np.minimum(values, LARGEST_LOSS), levels, cmap='viridis'
    )
    panel.set_title(f'{name}: {values[CENTRE, CENTRE]:.2f} at the centre')
    panel.set_xlabel('first direction')
  panels[0].set_ylabel('second direction')
  figure.colorbar(filled, ax=list(panels), label='test loss')
  figure.savefig(path, dpi=150)
