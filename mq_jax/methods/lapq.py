"""LAPQ: clips of all layers chosen together, by the loss, after training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax import selection
from mq_jax.checks import check_bits
from mq_jax.quantizers import Quantizer, dequantize, quantize

Array = jax.Array
_FRACTIONS = np.linspace(0.05, 1.0, 96)  # of max|w|, tried as clips


def clipped_uniform(bits: int, *, corrected: bool = True) -> Quantizer:
  """2ᵇ even levels from −α to α, of which none is 0, for a clip α.

  Args:
    bits: 1 to 8.
    corrected: Whether the levels of each output channel, the last axis, are
      moved so that the mean of its weights is what it was.

  Returns:
    A `Quantizer`; its variable is α, at first max|w|.

  Raises:
    ValueError: If `bits` is not an integer from 1 to 8.
  """
  check_bits(bits, 1, 8)
  steps = 2**bits - 1

  def init(w: Array) -> Array:
    largest = jnp.max(jnp.abs(w))
    return jnp.where(largest > 0, largest, 1)

  def codes(w_tilde: Array, variables: Array) -> tuple[Array, Array]:
    share = (w_tilde / variables + 1) / 2
    code = jnp.clip(jnp.floor(steps * share + 0.5), 0, steps).astype(jnp.uint8)
    grid = jnp.arange(steps + 1, dtype=w_tilde.dtype)
    levels = variables * (2 * grid / steps - 1)
    if not corrected:
      return code, levels
    axes = tuple(range(w_tilde.ndim - 1))
    lost = jnp.mean(
      w_tilde - dequantize(code, levels), axis=axes, keepdims=True
    )
    return code, levels.reshape((1,) * w_tilde.ndim + (-1,)) + lost[..., None]

  return Quantizer(codes, init=init)


def norm_clip(quantizer: Quantizer, w: Array, power: Array) -> Array:
  """The clip with the least mean |Q(w) − w|ᵖ, of a hundredth of max|w| exact.

  Args:
    quantizer: `clipped_uniform`.
    w: A weight.
    power: p.

  Returns:
    α, a scalar.
  """

  def error(alpha: Array) -> Array:
    w_hat = dequantize(*quantizer.codes(w, alpha))
    return jnp.mean(jnp.abs(w_hat - w) ** power)

  clips = quantizer.init(w) * jnp.asarray(_FRACTIONS, w.dtype)
  return clips[jnp.argmin(jax.lax.map(error, clips))]


class LapqResult(NamedTuple):
  """What `lapq` found.

  Attributes:
    variables: Path to α: with the quantizers, what `mq_jax.quantize` takes.
    power: p of the start of the joint search.
    losses: Of each p that was tried, of the start, and at the end.
  """

  variables: dict[str, Array]
  power: float
  losses: dict[str, Any]


def lapq(
  loss: Callable[[Any], Array],
  params: Any,
  rules: selection.Rules,
  *,
  powers: Sequence[float] = tuple(np.linspace(2, 4, 10)),
  sweeps: int = 1,
) -> LapqResult:
  """Chooses all clips by the loss, in three phases.

  1. Per layer, the clip of the least Lₚ error, for several p.
  2. A parabola through their losses gives p*, from whose clips
  3. Powell's method goes on over all clips together.

  Args:
    loss: `(params) -> scalar`, of a trained network on some hundred examples;
      pure. It is called with quantized weights.
    params: Of the trained network.
    rules: As in `make_train_step`, with `clipped_uniform`. The authors leave
      the first and the last layer out.
    powers: p, at least three.
    sweeps: Of Powell's method through all clips; the authors take 1 or 2.

  Returns:
    A `LapqResult`.

  Raises:
    ValueError: If there are fewer than three `powers`, or `sweeps` is negative.

  References:
    Nahshan et al., `Loss Aware Post-training Quantization
    <https://arxiv.org/abs/1911.07190>`_, 2021, section 4 and algorithm 1;
    weights only.
  """
  if len(powers) < 3 or sweeps < 0:
    raise ValueError(
      f'powers={tuple(powers)} must be three or more, and sweeps={sweeps!r} at'
      ' least 0.'
    )
  selected, leaves = (
    selection.select(params, rules),
    selection.named_leaves(params),
  )
  paths = list(selected)

  @jax.jit
  def clips_of(power: Array) -> Array:
    return jnp.stack(
      [norm_clip(selected[path], leaves[path], power) for path in paths]
    )

  @jax.jit
  def loss_at(clips: Array) -> Array:
    own = {
      path: quantize(selected[path], leaves[path], clip)
      for path, clip in zip(paths, clips, strict=True)
    }
    return loss(selection.replace(params, own))

  tried = [float(loss_at(clips_of(power))) for power in powers]
  power = _vertex(powers, tried)
  start = np.asarray(clips_of(power), np.float64)

  def of_factors(logarithms: np.ndarray) -> float:
    clips = jnp.asarray(start * np.exp(logarithms), leaves[paths[0]].dtype)
    value = float(loss_at(clips))
    return value if np.isfinite(value) else np.inf

  zeros = np.zeros(len(paths))
  best, first = zeros, of_factors(zeros)
  last = first
  if sweeps:
    # Here, because it would double the time of `import mq_jax`.
    import scipy.optimize

    found = scipy.optimize.minimize(
      *(of_factors, zeros), method='Powell', options={'maxiter': sweeps}
    )
    if found.fun < first:
      best, last = np.atleast_1d(found.x), float(found.fun)
  clips = jnp.asarray(start * np.exp(best), leaves[paths[0]].dtype)
  return LapqResult(
    dict(zip(paths, clips, strict=True)),
    power,
    {'powers': tried, 'start': first, 'end': last},
  )


def _vertex(powers: Sequence[float], losses: Sequence[float]) -> float:
  """Where the parabola through the losses is least, within the powers."""
  a, b, _ = np.polyfit(powers, losses, 2)
  if a > 0 and min(powers) <= -b / (2 * a) <= max(powers):
    return float(-b / (2 * a))
  return float(powers[int(np.argmin(losses))])
