"""Checks of the arguments of `TrainStep.init`."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax import data_parallel, direction, selection
from mq_jax.estimators import GradientEstimator
from mq_jax.late_update import Params, Setup, check_differentiable
from mq_jax.printing import describe
from mq_jax.quantizers import (
  Quantizer,
  any_per_table,
  at_start,
  check_shared,
  forward_weight,
)

Array = jax.Array


def check_arguments(key: Any, params: Any) -> None:
  """Raises `TypeError` unless the key is one key and the parameters train."""
  is_key = isinstance(key, jax.Array | np.ndarray) and (
    jnp.shape(key) == ()
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    else _type(key) == _type(jax.random.key_data(jax.random.key(0)))
  )
  if not is_key:
    raise TypeError(
      'init takes (key, params, model_state, batch); the key must be one key'
      f' such as jax.random.key(0), not {describe(key)}.'
    )
  for path, leaf in selection.named_leaves(params).items():
    if not jnp.issubdtype(getattr(leaf, 'dtype', type(leaf)), jnp.floating):
      remedy = 'move it into the model state'
      if not hasattr(leaf, 'dtype'):
        remedy = (
          'pass only the arrays, such as the first part of'
          ' eqx.partition(model, eqx.is_inexact_array)'
        )
      raise TypeError(
        f'params contain {path}, which is {describe(leaf)} and cannot be'
        f' trained: {remedy}.'
      )


def check_params(setup: Setup, params: Params) -> None:
  """Raises `ValueError` if the setup cannot train these parameters."""
  selected = selection.select(params, setup.quantizer)
  leaves = selection.named_leaves(params)
  for path in selected:
    selection.check_not_empty(path, leaves[path])
  _check_tied(leaves, selected.keys())
  data_parallel.check_sharding(selection.only(selected, params))
  if is_learned(setup.estimator, selection.only(selected, params)):
    if not selected:
      raise ValueError(
        'The estimator has a φ to learn, but no leaf is quantized: train full'
        ' precision with mq_jax.ste().'
      )
    for path, q in selected.items():
      _check_one_number(path, q, leaves[path])
  if setup.differentiate_refinement:
    check_differentiable(setup.refine, params)


class Measured(NamedTuple):
  """Measurements of the initial weights, by path.

  Attributes:
    cosine: Cosine between a gradient of each leaf and π of it.
    is_finite: True for a quantized leaf whose weights are all finite.
    is_trainable: True for a quantized leaf that a gradient reaches.
  """

  cosine: dict[str, Array]
  is_finite: dict[str, Array]
  is_trainable: dict[str, Array]


def measure(setup: Setup, params: Params) -> Measured:
  """Returns the direction of π by path, and what the quantizers can train."""

  def passes_gradient(q: Quantizer, w: Array) -> Array:
    theta, variables = at_start(q, w)
    w_tilde = q.preprocess(theta, variables)
    w_hat = forward_weight(q, w_tilde, variables)
    # A constant gradient never passes an A that subtracts the mean.
    g_hat = jax.random.normal(jax.random.key(0), w_hat.shape, w_hat.dtype)
    g_ste = q.straight_through(g_hat, w_tilde, variables)
    g = q.calibrate(theta, g_ste, variables)
    passes = ((g != 0) & jnp.isfinite(g)).reshape(*w.shape, -1).any(-1)
    codes, levels = q.codes(w_tilde, variables)
    check_shared(codes, levels)
    return any_per_table(passes, levels).all()

  selected = selection.select(params, setup.quantizer)
  leaves = selection.named_leaves(params)
  return Measured(
    direction.cosines(setup.refine, params),
    {path: jnp.isfinite(leaves[path]).all() for path in selected},
    selection.map_selected(passes_gradient, selected, leaves),
  )


def check_finite(is_finite: dict[str, Any]) -> None:
  """Raises `ValueError` if a quantized leaf has a value that is not finite."""
  for path, finite in is_finite.items():
    if not isinstance(finite, jax.core.Tracer) and not finite:
      raise ValueError(
        f'{path} has values that are not finite, which no quantizer can train:'
        ' check how the parameters are made or loaded.'
      )


def check_trainable(is_trainable: dict[str, Any]) -> None:
  """Raises `ValueError` if no gradient reaches a quantized leaf."""
  for path, passes in is_trainable.items():
    if not isinstance(passes, jax.core.Tracer) and not passes:
      raise ValueError(
        f'No gradient passes the quantizer of {path}, or of a slice of it, at'
        ' its initial values, so these weights would never train. Zeros need'
        ' small random values; weights that are all beyond the clip of the'
        ' quantizer need a larger clip; a schedule of the quantizer must begin'
        ' where a gradient passes. Otherwise keep the leaf in full precision by'
        f' the rule ({path!r}, None).'
      )


def is_learned(estimator: GradientEstimator, leaves: Mapping[str, Any]) -> bool:
  """Returns True if the estimator has a φ for these leaves."""
  phi = jax.eval_shape(estimator.init, jax.random.key(0), leaves)
  return bool(jax.tree.leaves(phi))


def _check_one_number(path: str, quantizer: Quantizer, leaf: Any) -> None:
  """Raises `ValueError` if a quantizer trains several numbers per weight."""
  if quantizer.parametrized is None:
    return
  theta = jax.eval_shape(quantizer.parametrized, leaf)
  if theta.shape != jnp.shape(leaf):
    raise ValueError(
      f'{quantizer} trains several numbers per weight of {path}, but a learned'
      ' estimator returns one gradient per weight: use mq_jax.ste().'
    )


def _check_tied(leaves: Mapping[str, Any], quantized: Iterable[str]) -> None:
  """Raises `ValueError` if two weights are the same array.

  Leaves that are neither quantized nor kernels may share an array, because
  initial zeros and ones often do.
  """
  first: dict[int, str] = {}
  for path, leaf in leaves.items():
    other = first.setdefault(id(leaf), path)
    if other != path and any(
      name in quantized or selection.is_kernel(name, leaf)
      for name in (path, other)
    ):
      raise ValueError(
        f'params contain the same array at {other} and {path}, but a train step'
        ' would train them as two weights. If they are tied, keep the weight at'
        ' one path and read it twice in loss_fn (nnx.split and eqx.nn.Shared do'
        f' so). If they are not, copy the array: jnp.copy({path}).'
      )


def _type(array: Any) -> tuple[tuple[int, ...], Any]:
  return jnp.shape(array), array.dtype
