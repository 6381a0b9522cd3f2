"""Estimators that wrap estimators: slim, and one φ per layer."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.estimators.base import (
  GradientEstimator,
  Leaves,
  Signals,
  at_path,
)
from mq_jax.printing import prints_call

Array = jax.Array


class SlimState(NamedTuple):
  """State of `slim` between steps.

  Attributes:
    key: PRNG key of the next draws.
    inner: State of the wrapped estimator.
  """

  key: Array
  inner: Any


@prints_call
def slim(estimator: GradientEstimator) -> GradientEstimator:
  """Makes an estimator that trains φ on one random layer per step.

  Layers are drawn uniformly, and the gradient of the drawn layer is not
  rescaled by the number of layers. The forward pass is that of `estimator`. If
  `estimator` processes coordinates in blocks, the backward pass skips the
  blocks of the other layers, except under `jax.vmap`, which computes both
  branches of a condition.

  Args:
    estimator: Any estimator with a φ.

  Returns:
    A `GradientEstimator`.

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization <https://papers.nips.cc/paper/8647>`_, 2019,
    appendix 7.1
  """

  def init_state(key: Array, leaves: Leaves) -> SlimState:
    key, inner_key = jax.random.split(key)
    return SlimState(key, estimator.init_state(inner_key, leaves))

  def apply(
    phi: Any, signals: Signals, state: SlimState
  ) -> tuple[Leaves, SlimState]:
    key, draw = jax.random.split(state.key)
    drawn = jax.random.randint(draw, (), 0, len(signals.g_hat))
    g_tilde, inner = estimator.apply(phi, signals, state.inner)
    trained = {
      path: jnp.where(drawn == index, g, lax.stop_gradient(g))
      for index, (path, g) in enumerate(g_tilde.items())
    }
    return trained, SlimState(key, inner)

  return estimator._replace(init_state=init_state, apply=apply)


@prints_call
def per_layer(estimator: GradientEstimator) -> GradientEstimator:
  """Makes an estimator that has a separate meta quantizer for every layer.

  `per_layer(fc_grad(layers=1, init='identity'))` learns one step size per
  layer. In `per_layer(multi_fc(layers=1, init='identity'))` the factor is a
  line in W̃, with one slope and one offset per layer.

  Args:
    estimator: Estimator of each layer, with separate φ and state per layer.

  Returns:
    A `GradientEstimator`. φ and state are dicts from path, and the names in
    `factor` begin with the path. Its `init_state` raises `ValueError` if
    `estimator` is a `slim`, which would see one layer only.
  """

  def init_layers(
    init: Callable[[Array, Leaves], Any], key: Array, leaves: Leaves
  ) -> dict[str, Any]:
    return {
      path: init(jax.random.fold_in(key, index), {path: leaf})
      for index, (path, leaf) in enumerate(leaves.items())
    }

  def init_state(key: Array, leaves: Leaves) -> dict[str, Any]:
    states = init_layers(estimator.init_state, key, leaves)
    if any(isinstance(state, SlimState) for state in states.values()):
      raise ValueError(
        'per_layer(slim(...)) would train every φ in every step, because each'
        ' slim sees one layer only: write slim(per_layer(...)).'
      )
    return states

  def apply(phi: Any, signals: Signals, state: Any) -> tuple[Leaves, Any]:
    g_tilde: dict[str, Array] = {}
    new_state = {}
    for path in signals.g_hat:
      estimated, new_state[path] = estimator.apply(
        phi[path], at_path(signals, path), state[path]
      )
      g_tilde.update(estimated)
    return g_tilde, new_state

  def factor(phi: Any) -> dict[str, Array]:
    return {
      f'{path}/{name}': value
      for path, layer_phi in phi.items()
      for name, value in estimator.factor(layer_phi).items()
    }

  return GradientEstimator(
    init=functools.partial(init_layers, estimator.init),
    init_state=init_state,
    apply=apply,
    factor=factor,
  )
