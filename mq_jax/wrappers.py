"""Estimators made of estimators: slim, and one φ a layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.estimators import GradientEstimator, Leaves

Array = jax.Array


class SlimState(NamedTuple):
  """What is kept between steps.

  Attributes:
    key: PRNG key of the draws to come.
    inner: State of the estimator inside.
  """

  key: Array
  inner: Any


def slim(estimator: GradientEstimator) -> GradientEstimator:
  """Lets one layer a step, drawn uniformly, train φ; the rest is inference.

  The gradient of the drawn layer is not rescaled by the number of layers. The
  forward pass is that of `estimator`. Where that works coordinate by coordinate
  in blocks, the blocks of the other layers are not gone through backwards (but
  under `jax.vmap`, which takes both branches of a condition).

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
    phi: Any, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: SlimState
  ) -> tuple[Leaves, SlimState]:
    key, draw = jax.random.split(state.key)
    drawn = jax.random.randint(draw, (), 0, len(g_hat))
    g_tilde, inner = estimator.apply(phi, g_hat, w_tilde, g_ste, state.inner)
    trained = {
      path: jnp.where(drawn == index, g, lax.stop_gradient(g))
      for index, (path, g) in enumerate(g_tilde.items())
    }
    return trained, SlimState(key, inner)

  return estimator._replace(init_state=init_state, apply=apply)


def per_layer(estimator: GradientEstimator) -> GradientEstimator:
  """Gives every layer a meta quantizer of its own.

  With `fc_grad(layers=1, init='identity')` inside this is one learned step size
  a layer; with `multi_fc(layers=1, init='identity')` a factor that is a line in
  W̃, a slope and an offset a layer.

  Args:
    estimator: What each layer gets, with a φ and a state of its own.

  Returns:
    A `GradientEstimator`; φ and state are dicts by path, and the names in
    `factor` begin with the path.
  """

  def init(key: Array, leaves: Leaves) -> dict[str, Any]:
    return {
      path: estimator.init(jax.random.fold_in(key, index), {path: leaf})
      for index, (path, leaf) in enumerate(leaves.items())
    }

  def init_state(key: Array, leaves: Leaves) -> dict[str, Any]:
    return {
      path: estimator.init_state(jax.random.fold_in(key, index), {path: leaf})
      for index, (path, leaf) in enumerate(leaves.items())
    }

  def apply(
    phi: Any, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    g_tilde: dict[str, Array] = {}
    new_state = {}
    for path in g_hat:
      estimated, new_state[path] = estimator.apply(
        phi[path],
        {path: g_hat[path]},
        {path: w_tilde[path]},
        {path: g_ste[path]},
        state[path],
      )
      g_tilde.update(estimated)
    return g_tilde, new_state

  def factor(phi: Any) -> dict[str, Array]:
    return {
      f'{path}/{name}': value
      for path, own in phi.items()
      for name, value in estimator.factor(own).items()
    }

  return GradientEstimator(init, init_state, apply, factor)
