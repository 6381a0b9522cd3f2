"""Gradient estimators: the backward half of quantized training.

A meta quantizer M_φ is a small network, shared by all layers, that acts on
every coordinate alone and gives the gradient that passes the quantizer,
g_W̃ = M_φ(g_Ŵ, W̃), eq. (3). φ is trained along with the weights.

References for all of them:
  Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
  Non-differentiable Quantization <https://papers.nips.cc/paper/8647>`_, 2019,
  eqs. (9) to (11)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax import coordinates, lstm, stacks

Array = jax.Array
Leaves = Mapping[str, Array]
Phi = Any


class GradientEstimator(NamedTuple):
  """The backward half, over all quantized leaves at once.

  `leaves`, `g_hat`, `w_tilde` and `g_ste` map a leaf's path to its array. All
  functions are pure; none may depend on the order of the coordinates.

  Attributes:
    init: `(key, leaves) -> phi`; `()` where nothing is learned.
    init_state: `(key, leaves) -> state`, what is kept between steps; `()` if
      none.
    apply: `(phi, g_hat, w_tilde, g_ste, state) -> (g_tilde, state)`. g_tilde
      has the paths and shapes of w_tilde. `g_ste` is the quantizer's
      straight-through gradient.
    factor: `(phi) -> {'s': slope, ...}`, the scalars that a stack without
      activation amounts to, or an empty dict.
  """

  init: Callable[[Array, Leaves], Phi]
  init_state: Callable[[Array, Leaves], Any]
  apply: Callable[[Phi, Leaves, Leaves, Leaves, Any], tuple[Leaves, Any]]
  factor: Callable[[Phi], dict[str, Array]]


def ste() -> GradientEstimator:
  """The straight-through estimator: hands the quantizer's own rule on."""
  return GradientEstimator(
    init=lambda key, leaves: (),
    init_state=lambda key, leaves: (),
    apply=lambda phi, g_hat, w_tilde, g_ste, state: (g_ste, state),
    factor=lambda phi: {},
  )


def fc_grad(
  hidden: int = 100,
  layers: int = 2,
  activation: str | None = None,
  bias: bool = False,
  init: str = 'random',
) -> GradientEstimator:
  """FCGrad, eq. (9): g_W̃ = FCs(φ, σ, g_Ŵ).

  Without activation and bias this is one learned scalar times g_Ŵ.

  Args:
    hidden: Width of the layers between; a single layer ignores it.
    layers: Number of linear layers.
    activation: None, 'relu' or 'tanh', between the layers.
    bias: Whether the layers have biases.
    init: 'random', U(±1/sqrt(fan_in)), or 'identity', which starts exactly at
      the straight-through rule: the stack reads g_ste in place of g_Ŵ, and the
      product of its layers starts at 1.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is out of range, or init='identity' is asked of
      a stack with an activation, which has no such point.
  """
  stack = stacks.checked_stack(hidden, layers, activation, bias, bias)
  identity = stacks.is_identity(init)
  if identity and stack.activation is not None:
    raise ValueError(
      f"init='identity' needs activation=None in fc_grad, not {activation!r}:"
      ' a stack with an activation is not the identity at any φ.'
    )

  def init_fn(key: Array, leaves: Leaves) -> Phi:
    if identity:
      return stacks.init_identity(key, stack, _dtype(leaves))
    return stacks.init(key, stack, _dtype(leaves))

  def apply(
    phi: Phi, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    del w_tilde
    return stacks.apply(phi, stack, g_ste if identity else g_hat), state

  return GradientEstimator(
    init=init_fn,
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=_factor(stack),
  )


def multi_fc(
  hidden: int = 100,
  layers: int = 2,
  activation: str | None = None,
  bias: bool = False,
  init: str = 'random',
) -> GradientEstimator:
  """MultiFC, eq. (10): g_W̃ = g_Ŵ · FCs(φ, σ, W̃).

  Args:
    hidden: Width of the layers between; a single layer ignores it.
    layers: Number of linear layers. The paper says 2, its logs have 3.
    activation: None, 'relu' or 'tanh', between the layers.
    bias: Whether the layers have biases.
    init: 'random', U(±1/sqrt(fan_in)), or 'identity', which starts exactly at
      the straight-through rule: the factor multiplies g_ste in place of g_Ŵ,
      and the last layer starts with weights 0 and a bias of 1.

  Returns:
    A `GradientEstimator`.

  Raises:
    ValueError: If an argument is out of range.
  """
  identity = stacks.is_identity(init)
  stack = stacks.checked_stack(
    hidden, layers, activation, bias, bias or identity
  )

  def init_fn(key: Array, leaves: Leaves) -> Phi:
    *first, last = stacks.init(key, stack, _dtype(leaves))
    return (*first, stacks.constant_one(last) if identity else last)

  def apply(
    phi: Phi, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    factor = stacks.apply(phi, stack, w_tilde)
    return _times(g_ste if identity else g_hat, factor), state

  return GradientEstimator(
    init=init_fn,
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=_factor(stack),
  )


def lstm_fc(
  hidden: int = 100,
  carry: bool = True,
  init: str = 'random',
  memory_dtype: Any = None,
) -> GradientEstimator:
  """LSTMFC, eq. (11): g_W̃ = g_Ŵ · FC(φ_FC, LSTM(φ_LSTM, W̃)).

  One LSTM layer with two bias vectors and a linear head with bias, all from
  U(±1/sqrt(hidden)). φ's gradient does not reach through the memory into
  earlier steps.

  Args:
    hidden: Number of hidden units.
    carry: Whether each coordinate keeps its (h, c) from step to step. False
      starts from zeros every time, as the paper's logs did.
    init: 'random' or 'identity', which starts exactly at the straight-through
      rule: the factor multiplies g_ste in place of g_Ŵ, and the head starts
      with weights 0 and a bias of 1.
    memory_dtype: In which (h, c) are kept between steps; jnp.bfloat16 halves
      them. None: that of the weights, float32 at least. The LSTM computes in
      the dtype of the weights whatever it is.

  Returns:
    A `GradientEstimator`; its state takes 2 · hidden numbers a coordinate.

  Raises:
    ValueError: If an argument is out of range.
  """
  stacks.check_count('hidden', hidden)
  identity = stacks.is_identity(init)
  if memory_dtype is not None and not jnp.issubdtype(
    memory_dtype, jnp.floating
  ):
    raise ValueError(
      f'memory_dtype={memory_dtype!r} must be a floating point type, such as'
      ' jnp.bfloat16, or None.'
    )

  def init_fn(key: Array, leaves: Leaves) -> Phi:
    lstm_key, head_key = jax.random.split(key)
    head = stacks.init_layer(head_key, (hidden, 1), True, _dtype(leaves))
    return {
      'lstm': lstm.init(lstm_key, hidden, _dtype(leaves)),
      'head': stacks.constant_one(head) if identity else head,
    }

  def init_state(key: Array, leaves: Leaves) -> Any:
    del key  # every memory starts empty
    if not carry:
      return ()
    return lstm.no_history(leaves, hidden, _dtype(leaves), memory_dtype)

  def apply(
    phi: Phi, g_hat: Leaves, w_tilde: Leaves, g_ste: Leaves, state: Any
  ) -> tuple[Leaves, Any]:
    def block(phi: Phi, inputs: tuple[Array, Any]) -> Array:
      x, memory = inputs
      if carry:
        memory = jax.tree.map(
          lambda part: lstm.widen(part, x.dtype, memory_dtype), memory
        )
      h = lstm.cell(phi['lstm'], x, memory).h
      return (h @ phi['head']['kernel'] + phi['head']['bias'][None, :])[:, 0]

    blocks = coordinates.to_blocks(w_tilde)
    memory = lstm.recall(state, memory_dtype) if carry else None
    factor = coordinates.from_blocks(
      coordinates.map_blocks(block, phi, (blocks, memory)), w_tilde
    )
    if memory is not None:
      # A constant to later steps: its derivative with respect to this step's φ
      # is never asked for.
      state = lax.stop_gradient(lstm.History(memory, phi['lstm'], blocks))
    return _times(g_ste if identity else g_hat, factor), state

  return GradientEstimator(
    init=init_fn, init_state=init_state, apply=apply, factor=lambda phi: {}
  )


def _dtype(leaves: Leaves) -> Any:
  return jnp.result_type(jnp.float32, *leaves.values())


def _times(g: Leaves, factor: Leaves) -> Leaves:
  return {path: g[path] * factor[path] for path in g}


def _factor(stack: stacks.Stack) -> Callable[[Phi], dict[str, Array]]:
  def factor(phi: Phi) -> dict[str, Array]:
    if stack.activation is not None:
      return {}
    slope, offset = stacks.line(phi, stack)
    has_offset = stack.bias or stack.last_bias
    return {'s': slope, 'offset': offset} if has_offset else {'s': slope}

  return factor
