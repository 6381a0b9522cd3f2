"""LAPQ: the loss chooses the clips of all layers jointly, after training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax import selection
from mq_jax.checks import check_at_least, check_bits, check_switch
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import (
  Quantizer,
  check_shared,
  dequantize,
  even_levels,
)

Array = jax.Array
_FRACTIONS = np.linspace(0.05, 1.0, 96)  # of max|w|, as candidates for clips


@prints_call
def clipped_uniform(bits: int, *, corrected: bool = True) -> Quantizer:
  """Quantizes to 2ᵇ even levels from −α to α without 0, for a clip α.

  Args:
    bits: b, 1 to 8.
    corrected: If True, shift the levels of each output channel, the last
      axis, so that the channel keeps the mean of its weights. The search for
      α (`lapq`) precedes the shift and ignores it.

  Returns:
    A `Quantizer` whose variable is α, which starts at max|w|, in float32 or
    wider.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.
    TypeError: If `corrected` is not a bool.
  """
  bits = check_bits(bits, 1, 8)
  check_switch(corrected=corrected)
  steps = 2**bits - 1

  def init(w: Array) -> Array:
    largest = jnp.max(jnp.abs(widened(w)))
    return jnp.where(largest > 0, largest, 1)

  def codes(w_tilde: Array, variables: Array) -> tuple[Array, Array]:
    w = widened(w_tilde)
    share = (w / variables + 1) / 2
    code = jnp.clip(jnp.floor(steps * share + 0.5), 0, steps).astype(jnp.uint8)
    levels = variables * even_levels(steps, variables.dtype)
    if corrected:
      axes = tuple(range(w.ndim - 1))
      shift = jnp.mean(w - dequantize(code, levels), axis=axes, keepdims=True)
      levels = levels.reshape((1,) * w.ndim + (-1,)) + shift[..., None]
    return code, levels.astype(w_tilde.dtype)

  return Quantizer(codes, init=init)


def _uncorrected(quantizer: Quantizer, w: Array, clip: Array) -> Array:
  """Returns Ŵ of `clipped_uniform` without the correction."""
  code, levels = quantizer.codes(w, clip)
  return clip * even_levels(levels.shape[-1] - 1, clip.dtype)[code]


def lp_clip(quantizer: Quantizer, w: Array, power: Array) -> Array:
  """Returns the clip with the smallest mean |Q(w) − w|ᵖ, Q uncorrected.

  The resolution is max|w| / 100.

  Args:
    quantizer: Quantizer from `clipped_uniform`.
    w: Weight of one layer, any shape.
    power: p, a scalar.

  Returns:
    α, a scalar.
  """

  def error(alpha: Array) -> Array:
    return jnp.mean(jnp.abs(_uncorrected(quantizer, w, alpha) - w) ** power)

  largest = quantizer.init(w)
  clips = largest * jnp.asarray(_FRACTIONS, largest.dtype)
  return clips[jnp.argmin(jax.lax.map(error, clips))]


class LapqResult(NamedTuple):
  """Result of `lapq`.

  Attributes:
    variables: Path to α, the variable that `mq_jax.quantize` takes.
    power: p at which the joint search starts.
    losses: 'powers' has the loss for each p, 'start' and 'end' have the loss at
      the start and the end of the joint search, all without the correction.
  """

  variables: dict[str, Array]
  power: float
  losses: dict[str, Any]


def lapq(
  loss: Callable[..., Array],
  params: Any,
  rules: selection.Rules,
  *,
  args: tuple[Any, ...] = (),
  powers: Sequence[float] = tuple(np.linspace(2, 4, 10)),
  sweeps: int = 1,
) -> LapqResult:
  """Chooses all clips by the loss, in three phases.

  1. Find the clip of each layer with the smallest Lₚ error, for several p.
  2. Fit a parabola through the losses of these p; its minimum is p*.
  3. Start from the clips of p* and search all clips jointly by Powell's method.

  All three phases use uncorrected levels. `mq_jax.quantize` with these clips
  applies the correction of the quantizer.

  Args:
    loss: Pure function `(params, *args) -> scalar`: loss of quantized
      parameters on a few hundred examples.
    params: Parameters of the trained network.
    rules: Rules as in `make_train_step`, with `clipped_uniform`. The authors
      exclude the first and the last layer.
    args: Further arguments of `loss`, such as the examples. Arrays that `loss`
      closes over become constants of the program, which compiles slowly.
    powers: Values of p, at least three.
    sweeps: Iterations of Powell's method; the authors take 1 or 2.

  Returns:
    A `LapqResult`.

  Raises:
    ValueError: If there are fewer than three `powers`, if `sweeps` is negative,
      if a quantizer is not `clipped_uniform`, if each weight of a leaf has
      levels of its own, or if a loss of the first phase is not finite.

  References:
    Nahshan et al., `Loss Aware Post-training Quantization
    <https://arxiv.org/abs/1911.07190>`_, 2021, section 4 and algorithm 1, for
    weights only
  """
  check_at_least(0, sweeps=sweeps)
  if len(powers) < 3:
    raise ValueError(f'powers={tuple(powers)} must be three or more numbers.')
  selected = selection.select(params, rules)
  leaves = selection.named_leaves(params)
  paths = list(selected)
  for path, quantizer in selected.items():
    if not quantizer.call.startswith(f'{clipped_uniform.__name__}('):
      raise ValueError(
        f'{path}: lapq searches the clips of clipped_uniform, not of'
        f' {quantizer}.'
      )
  # `quantize` would refuse these leaves after the search.
  selection.map_selected(
    lambda q, w: check_shared(
      w, jax.eval_shape(lambda w: q.codes(w, q.init(w)), w)[1]
    ),
    selected,
    leaves,
  )

  @jax.jit
  def clips_of(power: Array) -> Array:
    return jnp.stack(
      [lp_clip(selected[path], leaves[path], power) for path in paths]
    )

  @jax.jit
  def compiled_loss(clips: Array, args: tuple[Any, ...]) -> Array:
    quantized = {
      path: _uncorrected(selected[path], leaves[path], clip).astype(
        leaves[path].dtype
      )
      for path, clip in zip(paths, clips, strict=True)
    }
    return loss(selection.replace(params, quantized), *args)

  def loss_at(clips: Array) -> float:
    return float(compiled_loss(clips, args))

  losses = [loss_at(clips_of(power)) for power in powers]
  if not np.isfinite(losses).all():
    raise ValueError(
      f'The losses at powers={tuple(powers)} are {losses}, but lapq compares'
      ' finite losses: check the loss and the parameters.'
    )
  power = _vertex(powers, losses)
  first_clips = clips_of(power)
  start, dtype = np.asarray(first_clips, np.float64), first_clips.dtype

  def loss_of_factors(logarithms: np.ndarray) -> float:
    clips = jnp.asarray(start * np.exp(logarithms), dtype)
    value = loss_at(clips)
    return value if np.isfinite(value) else np.inf

  zeros = np.zeros(len(paths))
  best, first = zeros, loss_of_factors(zeros)
  last = first
  if sweeps:
    # At the top, this import would double the time of `import mq_jax`.
    import scipy.optimize

    found = scipy.optimize.minimize(
      loss_of_factors, zeros, method='Powell', options={'maxiter': sweeps}
    )
    if found.fun < first:
      best, last = np.atleast_1d(found.x), float(found.fun)
  clips = jnp.asarray(start * np.exp(best), dtype)
  return LapqResult(
    dict(zip(paths, clips, strict=True)),
    power,
    {'powers': losses, 'start': first, 'end': last},
  )


def _vertex(powers: Sequence[float], losses: Sequence[float]) -> float:
  """Returns the minimum of the parabola through the losses, within `powers`."""
  a, b, _ = np.polyfit(powers, losses, 2)
  if a > 0 and min(powers) <= -b / (2 * a) <= max(powers):
    return float(-b / (2 * a))
  return float(powers[int(np.argmin(losses))])
