"""The interface of all gradient estimators."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Leaves = Mapping[str, Array]
Phi = Any


class GradientEstimator(NamedTuple):
  """The backward pass of quantized training, for all quantized leaves at once.

  `leaves`, `g_hat`, `w_tilde` and `g_ste` map the path of a leaf to its array.
  All functions are pure. The order of coordinates must not affect the results.

  Attributes:
    init: `(key, leaves) -> phi`; `()` if nothing is learned.
    init_state: `(key, leaves) -> state`. The train step keeps the state between
      steps; it is `()` for an estimator without state.
    apply: `(phi, g_hat, w_tilde, g_ste, state) -> (g_tilde, state)`. `g_tilde`
      has the paths and shapes of `w_tilde`. `g_ste` is the straight-through
      gradient of the quantizer.
    factor: `(phi) -> {'s': slope, ...}`, the scalars that a stack without
      activation reduces to, or an empty dict.
    call: Text that prints the estimator, the call of its factory.
  """

  init: Callable[[Array, Leaves], Phi]
  init_state: Callable[[Array, Leaves], Any]
  apply: Callable[[Phi, Leaves, Leaves, Leaves, Any], tuple[Leaves, Any]]
  factor: Callable[[Phi], dict[str, Array]]
  call: str = 'GradientEstimator(...)'

  def __repr__(self) -> str:
    """Returns the call that made the estimator."""
    return self.call


def phi_dtype(leaves: Leaves) -> Any:
  """Returns the dtype of φ: the dtype of the leaves, at least float32."""
  return jnp.result_type(jnp.float32, *leaves.values())


def times(g: Leaves, factor: Leaves) -> dict[str, Array]:
  """Returns the product `g · factor` of each leaf."""
  return {path: g[path] * factor[path] for path in g}
