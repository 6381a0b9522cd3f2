"""The interface of all quantizers, and functions of any quantizer."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.checks import check_positive
from mq_jax.printing import prints_call

Array = jax.Array
Variables = Any


class Quantizer(NamedTuple):
  """The forward pass of quantized training, for one weight.

  Every function is pure and takes the weight `w` of one layer, of any shape.
  The train step carries `variables` from step to step. `init` returns the first
  value, `()` for a method without variables.

  Attributes:
    codes: `(w_tilde, variables) -> (codes, levels)`. `codes` are uint8 with the
      shape of `w`. `levels` is the table of values. A table per tensor has
      shape `(n,)`. Otherwise `levels` has one more axis than `w`: `n` is the
      last axis, and the length t of any other axis divides the length of that
      axis of `w`. Adjacent weights share a table: all of the axis if t = 1,
      groups if t is larger. Q is `dequantize(codes, levels)`.
    init: `(w) -> variables`.
    preprocess: A: `(w, variables) -> w_tilde`.
    straight_through: `(g_hat, w_tilde, variables) -> g_ste`, the estimate of
      ∂loss/∂W̃ in the method's own paper. The default returns g_hat.
    calibrate: `(w, g_tilde, variables) -> g`, eq. (4): g_tilde · ∂W̃/∂W.
    update: `(variables, w_tilde, w_hat, g_hat) -> variables`, called in the
      late weight update. `w_tilde`, `w_hat` and `g_hat` belong to the last
      loss, which used these `variables`.
    saturated: `(w_tilde, variables) -> bool array`, true for weights outside
      the range in which a gradient can still flip their codes.
    unrounded: `(w_tilde, variables) -> value`, W̃ on the scale of the levels: Q
      rounds this value to the nearest of the levels, which ascend. None if Q
      has other thresholds, or if the loss does not use Q(W̃); estimators that
      read the distance from a threshold then do not apply.
    relaxed: `(w_tilde, variables) -> w_hat`. A method that quantizes gradually
      trains with this value in the loss. If None, the loss uses Q(W̃).
    parametrized: `(w) -> theta`. The optimizer trains theta instead of `w`, and
      `preprocess` and `calibrate` receive theta. If None, `w` is trained.
    call: Text that prints the quantizer, the call of its factory.
  """

  codes: Callable[[Array, Variables], tuple[Array, Array]]
  init: Callable[[Array], Variables] = lambda w: ()
  preprocess: Callable[[Array, Variables], Array] = lambda w, variables: w
  straight_through: Callable[[Array, Array, Variables], Array] = (
    lambda g_hat, w_tilde, variables: g_hat
  )
  calibrate: Callable[[Array, Array, Variables], Array] = (
    lambda w, g_tilde, variables: g_tilde
  )
  update: Callable[[Variables, Array, Array, Array], Variables] = (
    lambda variables, w_tilde, w_hat, g_hat: variables
  )
  saturated: Callable[[Array, Variables], Array] = lambda w_tilde, variables: (
    jnp.zeros(w_tilde.shape, bool)
  )
  unrounded: Callable[[Array, Variables], Array] | None = None
  relaxed: Callable[[Array, Variables], Array] | None = None
  parametrized: Callable[[Array], Array] | None = None
  call: str = 'Quantizer(...)'

  def __repr__(self) -> str:
    """Returns the call that made the quantizer."""
    return self.call


def dequantize(codes: Array, levels: Array) -> Array:
  """Returns the values of integer codes.

  Args:
    codes: Unsigned integers of any shape.
    levels: Table of values: `(n,)`, or several tables as in `Quantizer.codes`.

  Returns:
    `levels[codes]`, with the shape of `codes` and the dtype of `levels`.
  """
  if levels.ndim == 1:
    return levels[codes]
  *tables, count = levels.shape
  numbers = jnp.arange(math.prod(tables)).reshape(tables)
  first = count * value_per_weight(numbers, codes.shape)
  # The table of each weight would take `count` times the memory.
  return levels.reshape(-1)[first + codes.astype(first.dtype)]


def check_shared(
  codes: Array | jax.ShapeDtypeStruct, levels: Array | jax.ShapeDtypeStruct
) -> None:
  """Raises `ValueError` if each weight has a table of levels of its own.

  Args:
    codes: Codes of a weight, or an array of their shape.
    levels: Its tables, as in `Quantizer.codes`.
  """
  if levels.ndim > 1 and math.prod(levels.shape[:-1]) == codes.size:
    raise ValueError(
      f'Each weight of shape {codes.shape} would have levels of its own, which'
      ' quantizes nothing: map per over fewer axes, use larger groups, or keep'
      ' the leaf in full precision by a rule with None.'
    )


def value_per_weight(values: Array, shape: tuple[int, ...]) -> Array:
  """Returns the value of each weight, one per table.

  Args:
    values: One value per table of `Quantizer.codes`: an array with as many axes
      as the weight, each as long as that of the weight or a divisor of it.
    shape: Shape of the weight.
  """
  for axis, length in enumerate(shape):
    tables = values.shape[axis]
    if 1 < tables < length:
      # jnp.repeat would be a gather or a scatter.
      groups = jnp.expand_dims(values, axis + 1)
      groups = jnp.broadcast_to(
        groups,
        (
          *groups.shape[: axis + 1],
          length // tables,
          *groups.shape[axis + 2 :],
        ),
      )
      values = groups.reshape(
        *values.shape[:axis], length, *values.shape[axis + 1 :]
      )
  return jnp.broadcast_to(values, shape)


def even_levels(steps: int, dtype: jax.typing.DTypeLike) -> Array:
  """Returns `steps` + 1 even levels from −1 to 1, of shape `(steps + 1,)`.

  Each is the number of `dtype` nearest to its exact value, so a level and its
  opposite add up to 0. The rounding errors of 2k/n − 1 do not cancel in this
  way, and give the sums of a layer a bias.

  Args:
    steps: Number of intervals.
    dtype: A floating point type.
  """
  # XLA may multiply by 1 / steps instead, which rounds twice.
  return jnp.asarray(np.arange(-steps, steps + 1, 2) / steps, dtype)


def any_per_table(mask: Array, levels: Array) -> Array:
  """Returns where `mask` is true for a weight of a table, one per table.

  Args:
    mask: Bool array of the shape of a weight.
    levels: Its tables, as in `Quantizer.codes`.
  """
  tables = levels.shape[:-1] or (1,) * mask.ndim
  blocks = [
    part
    for t, length in zip(tables, mask.shape, strict=True)
    for part in (t, length // t)
  ]
  return mask.reshape(blocks).any(axis=tuple(range(1, len(blocks), 2)))


def w_itself(w_tilde: Array, variables: Variables) -> Array:
  """Returns W̃: the `unrounded` of a quantizer whose levels are on its scale."""
  return w_tilde


def at_start(quantizer: Quantizer, w: Array) -> tuple[Array, Variables]:
  """Returns the trained array, θ or W, and the variables before training."""
  theta = w if quantizer.parametrized is None else quantizer.parametrized(w)
  return theta, quantizer.init(w)


def quantize(quantizer: Quantizer, w: Array, variables: Variables) -> Array:
  """Returns Ŵ = Q(A(W)) of one weight, with the shape of W̃.

  Args:
    quantizer: Any quantizer.
    w: W; θ if the quantizer is `parametrized` (`at_start`).
    variables: Variables of the quantizer, such as `quantizer.init(w)`; `()` if
      it has none.

  Raises:
    TypeError: If `w` is not floating point.
    ValueError: If `variables` is `()` and the quantizer has variables, or if
      each weight has levels of its own.
  """
  _check_floating(w)
  if _is_empty(variables) and jax.tree.leaves(
    jax.eval_shape(quantizer.init, w)
  ):
    raise ValueError(
      f'{quantizer} has variables: pass quantizer.init(w), or those of a state,'
      ' state.variables[path].'
    )
  codes, levels = quantizer.codes(quantizer.preprocess(w, variables), variables)
  check_shared(codes, levels)
  return dequantize(codes, levels)


def forward_weight(
  quantizer: Quantizer, w_tilde: Array, variables: Variables
) -> Array:
  """Returns the weight that the loss uses: Q(W̃) or its relaxation."""
  if quantizer.relaxed is not None:
    return quantizer.relaxed(w_tilde, variables)
  return dequantize(*quantizer.codes(w_tilde, variables))


def projected(
  quantizer: Quantizer, w: Array, variables: Variables = ()
) -> Array:
  """Returns Q(W), for methods that move W itself onto the levels.

  Raises:
    TypeError: If `w` is not floating point.
    ValueError: If W̃ differs from W, or if the quantizer has variables and
      `variables` is `()`.
  """
  _check_floating(w)
  check_plain(quantizer)
  if _is_empty(variables):
    check_no_variables(quantizer)
  codes, levels = quantizer.codes(w, variables)
  check_shared(codes, levels)
  return dequantize(codes, levels).astype(w.dtype)


def check_no_variables(quantizer: Quantizer) -> None:
  """Raises `ValueError` if the quantizer has variables."""
  if quantizer.init is not Quantizer._field_defaults['init']:
    raise ValueError(
      'The quantizer has variables, but this method keeps none: use a quantizer'
      ' without variables, such as mq_jax.methods.twn(), or wrap the quantizer'
      ' in mq_jax.methods.fixed_levels.'
    )


def _is_empty(variables: Variables) -> bool:
  return isinstance(variables, tuple) and not variables


def _check_floating(w: Any) -> None:
  """Raises `TypeError` unless `w` is floating point."""
  dtype = jnp.result_type(w)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f'The weight has dtype {dtype}, but only floating point weights can be'
      ' quantized: convert it, jnp.asarray(w, jnp.float32).'
    )


def check_plain(quantizer: Quantizer) -> None:
  """Raises `ValueError` unless W is trained and W̃ = W."""
  if quantizer.parametrized is not None:
    changed = 'trains other numbers than its weights'
  elif quantizer.preprocess is not Quantizer._field_defaults['preprocess']:
    changed = 'pre-processes its weights'
  else:
    return
  raise ValueError(
    f'The quantizer {changed}, but this method moves the weights themselves'
    ' onto levels: use a quantizer with W̃ = W, such as mq_jax.bwn() or'
    ' mq_jax.methods.twn().'
  )


@prints_call
def unquantized(projection: Quantizer) -> Quantizer:
  """Returns a quantizer for training in full precision.

  Only `codes` and `quantized` use its levels.

  Args:
    projection: Quantizer of `TrainStep.codes` and `TrainStep.quantized`.

  Returns:
    The same `Quantizer`, except that the loss uses W and g_ste is g_hat.

  Raises:
    ValueError: If `projection` pre-processes its weights, or trains other
      numbers than its weights.
  """
  check_plain(projection)
  return Quantizer(
    projection.codes,
    init=projection.init,
    update=projection.update,
    saturated=projection.saturated,
    relaxed=lambda w_tilde, variables: w_tilde,
  )


def check_clip(clip: float | None) -> None:
  """Raises `ValueError` unless `clip` is positive and finite, or None."""
  if clip is not None:
    check_positive(clip=clip)


def clip_gradient(g: Array, w_tilde: Array, clip: float | None) -> Array:
  """Returns the gradient `g`, with zeros where |W̃| > clip."""
  if clip is None:
    return g
  return jnp.where(is_clipped(w_tilde, clip), jnp.zeros_like(g), g)


def is_clipped(w_tilde: Array, clip: float | None) -> Array:
  """Returns where |W̃| > clip, and False everywhere if `clip` is None."""
  if clip is None:
    return jnp.zeros(w_tilde.shape, bool)
  return jnp.abs(w_tilde) > clip
