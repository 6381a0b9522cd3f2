"""A meta quantizer that reads a complete k x k kernel of a convolution."""

from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count
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
def kernel_wise(
  *, size: int = 3, hidden: int = 100, init: str = 'random'
) -> GradientEstimator:
  """Makes g_W̃ = g_Ŵ · FCs(φ, kernel of W̃), with one factor per weight.

  Two linear layers map the k² weights of a kernel (one input and one output
  channel) to k² factors, one for the gradient of each weight. The layers
  reduce to one k² x k² matrix and are evaluated as that matrix. The authors
  tried such a meta quantizer, found it 10 to 20 % worse than the published
  ones, and dropped it because it supports a single size of kernels only. They
  do not describe its layers; our reading is a kernel-wise `multi_fc`.

  Args:
    size: k. Every quantized leaf must have the shape (k, k, in, out).
    hidden: Width of the hidden layer.
    init: Start of φ. 'random' draws from U(±1/sqrt(fan_in)). 'identity' starts
      exactly at the straight-through rule: the factors multiply g_ste instead
      of g_Ŵ, and the last layer starts with weights 0 and biases of 1.

  Returns:
    A `GradientEstimator`; `init` raises `ValueError` if a leaf has another
    shape.

  Raises:
    ValueError: If an argument is out of range.

  References:
    Chen, Wang, Pan, MetaQuant, 2019, author response, to reviewer 1
  """
  check_count('size', size)
  check_count('hidden', hidden)
  identity = stacks.is_identity(init)

  def init_phi(key: Array, leaves: Leaves) -> Any:
    for path, leaf in leaves.items():
      if leaf.ndim != 4 or leaf.shape[:2] != (size, size):
        raise ValueError(
          f'{path} has shape {leaf.shape}, but kernel_wise(size={size}) takes'
          f' kernels of shape ({size}, {size}, in, out) only. Keep the leaf in'
          f' full precision by a rule such as ({path!r}, None).'
        )
    first_key, last_key = jax.random.split(key)
    dtype = phi_dtype(leaves)
    first = stacks.init_layer(first_key, (size**2, hidden), False, dtype)
    last = stacks.init_layer(last_key, (hidden, size**2), identity, dtype)
    return first, stacks.constant_one(last) if identity else last

  def apply(phi: Any, signals: Signals, state: Any) -> tuple[Leaves, Any]:
    first, last = phi
    matrix = first['kernel'] @ last['kernel']
    offset = last.get('bias', jnp.zeros(size**2, matrix.dtype))

    def factor(kernels: Array) -> Array:
      rows = kernels.reshape(size**2, -1)
      return (matrix.T @ rows + offset[:, None]).reshape(kernels.shape)

    factors = {path: factor(w) for path, w in signals.w_tilde.items()}
    return times(signals.g_ste if identity else signals.g_hat, factors), state

  return GradientEstimator(
    init=init_phi,
    init_state=lambda key, leaves: (),
    apply=apply,
    factor=lambda phi: {},
  )
