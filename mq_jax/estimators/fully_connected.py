"""FCGrad and MultiFC: fully-connected meta quantizers, eqs. (9) and (10)."""

from typing import Any

import jax

from mq_jax.checks import check_switch
from mq_jax.estimators import stacks
from mq_jax.estimators.base import (
  GradientEstimator,
  Leaves,
  Signals,
  phi_dtype,
  times,
)
from mq_jax.printing import prints_call

Array = jax.Array


@prints_call
def fc_grad(
  *,
  hidden: int = 100,
  layers: int = 2,
  activation: str | None = None,
  bias: bool = False,
  init: str = 'random',
) -> GradientEstimator:
  """Makes FCGrad, eq. (9): g_W̃ = FCs(φ, σ, g_Ŵ).

  Without activation and bias, FCGrad is one learned scalar times g_Ŵ.

  Args:
    hidden: Width of the hidden layers; unused if `layers` is 1.
    layers: Number of linear layers.
    activation: Function between the layers: None, 'relu' or 'tanh'.
    bias: True if the layers have biases.
    init: Start of φ. 'random' draws from U(±1/sqrt(fan_in)). 'identity' starts
      exactly at the straight-through rule: the stack reads g_ste instead of
      g_Ŵ, and the product of its layers starts at 1.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is out of range, or if `init` is 'identity' and
      the stack has an activation: no φ makes such a stack the identity.
    TypeError: If `bias` is not a bool.
  """
  activation = stacks.checked_activation(hidden, layers, activation)
  check_switch(bias=bias)
  identity = stacks.is_identity(init)
  if identity and activation is not None:
    raise ValueError(
      f"init='identity' needs activation=None in fc_grad, not {activation!r}:"
      ' no φ makes a stack with an activation the identity.'
    )

  def init_phi(key: Array, leaves: Leaves) -> stacks.Phi:
    phi = stacks.init(key, hidden, layers, bias, bias, phi_dtype(leaves))
    return stacks.identity(phi) if identity else phi

  def apply(
    phi: stacks.Phi, signals: Signals, state: Any
  ) -> tuple[Leaves, Any]:
    g = signals.g_ste if identity else signals.g_hat
    return stacks.apply(phi, activation, g), state

  return GradientEstimator(
    init=init_phi,
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=stacks.line if activation is None else lambda phi: {},
  )


@prints_call
def multi_fc(
  *,
  hidden: int = 100,
  layers: int = 2,
  activation: str | None = None,
  bias: bool = False,
  init: str = 'random',
) -> GradientEstimator:
  """Makes MultiFC, eq. (10): g_W̃ = g_Ŵ · FCs(φ, σ, W̃).

  Args:
    hidden: Width of the hidden layers; unused if `layers` is 1.
    layers: Number of linear layers: 2 in the paper, 3 in its logs.
    activation: Function between the layers: None, 'relu' or 'tanh'.
    bias: True if the layers have biases.
    init: Start of φ. 'random' draws from U(±1/sqrt(fan_in)). 'identity' starts
      exactly at the straight-through rule: the factor multiplies g_ste instead
      of g_Ŵ, and the last layer starts with weights 0 and a bias of 1.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is out of range.
    TypeError: If `bias` is not a bool.
  """
  identity = stacks.is_identity(init)
  activation = stacks.checked_activation(hidden, layers, activation)
  check_switch(bias=bias)
  last_bias = bias or identity

  def init_phi(key: Array, leaves: Leaves) -> stacks.Phi:
    *first, last = stacks.init(
      key, hidden, layers, bias, last_bias, phi_dtype(leaves)
    )
    return (*first, stacks.constant_one(last) if identity else last)

  def apply(
    phi: stacks.Phi, signals: Signals, state: Any
  ) -> tuple[Leaves, Any]:
    factor = stacks.apply(phi, activation, signals.w_tilde)
    return times(signals.g_ste if identity else signals.g_hat, factor), state

  return GradientEstimator(
    init=init_phi,
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=stacks.line if activation is None else lambda phi: {},
  )
