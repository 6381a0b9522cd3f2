"""The interface of all gradient estimators."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Leaves = Mapping[str, Array]
Phi = Any


_NONE: Leaves = {}


class Signals(NamedTuple):
  """The inputs of an estimator: gradients and weights of the quantized leaves.

  Each field but `step` maps the path of a leaf to an array of the shape of W.
  A compiled step does not compute what the estimator does not read.

  Attributes:
    g_hat: g_Ŵ, ∂loss/∂Ŵ.
    g_ste: The straight-through gradient of the quantizer.
    w_tilde: W̃.
    w_hat: Ŵ, the weights that the loss received.
    distance: Distance of the unrounded weight from the threshold at which its
      code changes, on the scale of the levels (`quantizers.cells`). It has no
      entry for a leaf whose quantizer does not round to the nearest level.
    cell: Distance between the two levels around that threshold, for the same
      leaves as `distance`.
    step: Number of weight updates taken, int32 of shape ().
  """

  g_hat: Leaves
  g_ste: Leaves
  w_tilde: Leaves
  w_hat: Leaves = _NONE
  distance: Leaves = _NONE
  cell: Leaves = _NONE
  step: Array | int = 0


def at_path(signals: Signals, path: str) -> Signals:
  """Returns the signals of one leaf."""

  def at(field: Leaves) -> Leaves:
    return {path: field[path]} if path in field else {}

  return Signals(
    g_hat=at(signals.g_hat),
    g_ste=at(signals.g_ste),
    w_tilde=at(signals.w_tilde),
    w_hat=at(signals.w_hat),
    distance=at(signals.distance),
    cell=at(signals.cell),
    step=signals.step,
  )


class GradientEstimator(NamedTuple):
  """The backward pass of quantized training, for all quantized leaves at once.

  `leaves` and the fields of `signals` map the path of a leaf to its array. All
  functions are pure. The order of coordinates must not affect the results.

  Attributes:
    init: `(key, leaves) -> phi`; `()` if nothing is learned.
    init_state: `(key, leaves) -> state`. The train step keeps the state between
      steps; it is `()` for an estimator without state.
    apply: `(phi, signals, state) -> (g_tilde, state)`. `signals` are `Signals`;
      `g_tilde` has the paths and shapes of `signals.w_tilde`.
    factor: `(phi) -> {'s': slope, ...}`, the scalars that a stack without
      activation reduces to, or an empty dict.
    call: Text that prints the estimator, the call of its factory.
  """

  init: Callable[[Array, Leaves], Phi]
  init_state: Callable[[Array, Leaves], Any]
  apply: Callable[[Phi, Signals, Any], tuple[Leaves, Any]]
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
