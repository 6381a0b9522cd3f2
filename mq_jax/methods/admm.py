"""ADMM: a dual variable draws weights towards scaled levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax import selection
from mq_jax.checks import check_at_least, check_count
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer, Variables, projected, w_itself

Array = jax.Array


@prints_call
def scaled_levels(values: Sequence[float], *, iterations: int = 5) -> Quantizer:
  """Quantizes to Ŵ = α · q, with q of given values and one α per layer.

  Each iteration sets q to the nearest of `values` to W/α, and then
  α = ⟨W, q⟩ / ⟨q, q⟩. No iteration increases ‖W − αq‖. α starts at mean|W|.

  Args:
    values: Ascending and symmetric values, such as (−1, 1), (−1, 0, 1), or
      powers of two with 0.
    iterations: Number of updates of q and α, at least 1.

  Returns:
    A `Quantizer`.

  Raises:
    ValueError: If `values` contains fewer than two values, is not ascending or
      is not symmetric, or if `iterations` is not positive.

  References:
    Leng, Dou, Li, Zhu, Jin, `Extremely Low Bit Neural Network: Squeeze the Last
    Bit Out with ADMM <https://arxiv.org/abs/1707.09870>`_, 2018, eqs. (10)-(13)
  """
  points = [float(value) for value in values]
  ascend = len(points) > 1 and sorted(set(points)) == points
  if not ascend or points != [-point for point in points[::-1]]:
    raise ValueError(
      f'values={tuple(values)} must be two or more numbers, ascending and'
      ' symmetric, such as (-1, 0, 1).'
    )
  check_count('iterations', iterations)

  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    w = widened(w_tilde)
    levels = jnp.asarray(points, w.dtype)
    middles = (levels[1:] + levels[:-1]) / 2

    def nearest(alpha: Array) -> Array:
      return jnp.searchsorted(middles, w / alpha, side='right')

    def improved(_: int, alpha: Array) -> Array:
      q = levels[nearest(alpha)]
      squares = jnp.sum(q * q)
      better = jnp.sum(w * q) / jnp.where(squares > 0, squares, 1)
      return jnp.where(better > 0, better, alpha)

    mean = jnp.mean(jnp.abs(w))
    alpha = jnp.where(mean > 0, mean, 1)
    alpha = lax.fori_loop(0, iterations, improved, alpha)
    table = (alpha * levels).astype(w_tilde.dtype)
    return nearest(alpha).astype(jnp.uint8), table

  return Quantizer(codes, unrounded=w_itself)


class AdmmState(NamedTuple):
  """State of `admm`.

  Attributes:
    updates: Number of updates so far, int32.
    projected: Path to G, the projected weights.
    dual: Path to L, the scaled dual variable.
  """

  updates: Array
  projected: dict[str, Array]
  dual: dict[str, Array]


def admm(
  rules: selection.Rules, *, rho: float = 1e-3, every: int = 100
) -> optax.GradientTransformation:
  """Adds the gradient of ρ/2 ‖W − G + L‖², as the first part of `refine`.

  After every `every` updates, G becomes Q(W + L), and then L becomes L + W − G.

  Args:
    rules: Rules as in `make_train_step`, whose quantizers have no variables and
      do not act in the loss: `unquantized(scaled_levels((-1, 0, 1)))`.
    rho: ρ. The values of ρ and `every` that the authors used are not known.
    every: Updates between two changes of G and L.

  Returns:
    A transformation of gradients, which needs the parameters.

  Raises:
    ValueError: If `rho` is negative or `every` is not a positive integer.

  References:
    Leng et al., 2018, eqs. (6) to (8). Their extragradient step for W, which
    takes two gradients, is a plain step here.
  """
  rules = selection.fixed_rules(rules)
  check_at_least(0, rho=rho)
  check_count('every', every)

  def init(params: Any) -> AdmmState:
    selected = selection.select(params, rules)
    leaves = selection.named_leaves(params)
    return AdmmState(
      jnp.zeros((), jnp.int32),
      selection.map_selected(projected, selected, leaves),
      {path: jnp.zeros_like(leaves[path]) for path in selected},
    )

  def update(
    grads: Any, state: AdmmState, params: Any = None
  ) -> tuple[Any, AdmmState]:
    selected = selection.select(params, rules)
    weights = selection.named_leaves(params)

    def moved() -> tuple[dict[str, Array], dict[str, Array]]:
      sums = {path: weights[path] + state.dual[path] for path in selected}
      g = selection.map_selected(projected, selected, sums)
      return g, {path: sums[path] - g[path] for path in selected}

    near, dual = lax.cond(
      (state.updates % every == 0) & (state.updates > 0),
      moved,
      lambda: (state.projected, state.dual),
    )

    new = selection.transform(
      lambda _, w, g, near, dual: g + rho * (w - near + dual),
      rules,
      params,
      grads,
      near,
      dual,
    )
    return new, AdmmState(state.updates + 1, near, dual)

  return optax.GradientTransformation(init, update)
