"""EWGS: element-wise gradient scaling by the rounding error."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_at_least, check_count
from mq_jax.estimators.base import GradientEstimator, Leaves, Signals
from mq_jax.estimators.slopes.base import position_at
from mq_jax.precision import widened
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def ewgs(*, delta: float = 1e-3) -> GradientEstimator:
  """Multiplies g_ste by 1 + δ sign(g_ste) (W̃ − Ŵ), on the scale of the levels.

  The state is δ by path. To measure δ as the authors do, replace the state
  between two steps: `state._replace(estimator_state=measured_deltas(...))`.

  Args:
    delta: First δ of every layer, at least 0. The authors' weights are in
      [0, 1] before they are rounded, so a δ of theirs is half as large here if
      the levels are in [−1, 1].

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If `delta` is negative.

  References:
    Lee, Kim, Ham, `Network Quantization with Element-wise Gradient Scaling
    <https://arxiv.org/abs/2104.00903>`_, 2021, eqs. (3) and (11)
  """
  check_at_least(0, delta=delta)

  def init_state(key: Array, leaves: Leaves) -> dict[str, Array]:
    del key  # The state has no random part.
    return {
      path: jnp.asarray(delta, widened(w).dtype) for path, w in leaves.items()
    }

  def apply(
    phi: Any, signals: Signals, state: dict[str, Array]
  ) -> tuple[dict[str, Array], dict[str, Array]]:
    g_tilde = {}
    for path, g in signals.g_ste.items():
      error = position_at(signals, path).error
      g_tilde[path] = (g * (1 + state[path] * jnp.sign(g) * error)).astype(
        g.dtype
      )
    return g_tilde, state

  return GradientEstimator(
    init=lambda key, leaves: (),
    init_state=init_state,
    apply=apply,
    factor=lambda phi: {},
  )


def measured_deltas(
  loss: Callable[[Leaves], Array],
  w_hat: Leaves,
  key: Array,
  *,
  samples: int = 50,
) -> dict[str, Array]:
  """Returns δ of each leaf from the trace of the Hessian of a loss.

  δ = max(0, Tr(H)/N / (3 σ(g))), with the Hessian H and the gradient g of the
  loss with respect to the N weights of the leaf, and their standard deviation
  σ(g). Hutchinson's estimate of the trace is the mean of vᵀHv over random
  signs v.

  Args:
    loss: Loss of one or more batches as a function of the quantized weights.
    w_hat: Path to quantized weight.
    key: PRNG key of the random signs.
    samples: Number of random v.

  Returns:
    Path to δ, shape (), in float32 or wider; 0 for a constant gradient.

  Raises:
    ValueError: If `samples` is not a positive integer.

  References:
    Lee, Kim, Ham, EWGS, 2021, eqs. (10) to (12)
  """
  check_count('samples', samples)
  w_hat = dict(w_hat)
  gradient = jax.grad(loss)

  def products(key: Array) -> dict[str, Array]:
    keys = jax.random.split(key, len(w_hat))
    v = {
      path: jax.random.rademacher(k, w.shape, w.dtype)
      for k, (path, w) in zip(keys, w_hat.items(), strict=True)
    }
    hv = jax.jvp(gradient, (w_hat,), (v,))[1]
    return {path: jnp.vdot(v[path], hv[path]) for path in w_hat}

  traces = jax.lax.map(products, jax.random.split(key, samples))
  g = gradient(w_hat)
  deltas = {}
  for path, w in w_hat.items():
    gradients = widened(g[path])
    scale = 3 * jnp.std(gradients)
    # The rounding of the mean gives a constant gradient a deviation.
    residue = 100 * jnp.finfo(w.dtype).eps * jnp.max(jnp.abs(gradients))
    mean = jnp.mean(widened(traces[path])) / w.size
    ratio = jnp.maximum(mean, 0) / jnp.where(scale > residue, scale, 1)
    deltas[path] = jnp.where(scale > residue, ratio, 0)
  return deltas
