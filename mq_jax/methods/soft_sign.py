"""Binary weights as the limit of a smooth function: MD-tanh and BayesBiNN."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax.checks import check_positive, check_schedule, check_switch
from mq_jax.derivatives import sech_squared
from mq_jax.methods.proximal import binary
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer

Array = jax.Array


def scaled_start(start: float | None) -> Callable[[Array], Array] | None:
  """Returns w ↦ `start` · w / mean|w|, or None.

  Args:
    start: Mean size of a layer before training, or None to keep its weights.

  Raises:
    ValueError: If `start` is not positive.
  """
  if start is None:
    return None
  check_positive(start=start)

  def scaled(w: Array) -> Array:
    size = jnp.mean(jnp.abs(widened(w)))
    return (start * w / jnp.where(size > 0, size, 1)).astype(w.dtype)

  return scaled


@prints_call
def md_tanh(beta: optax.Schedule, *, mirror: bool = True) -> Quantizer:
  """Trains with tanh(β W), and quantizes to sign(W); sign(0) = +1.

  In mirror descent W is the dual variable of tanh(β W), so the gradient at
  tanh(β W) moves W unchanged. Otherwise the gradient is the exact one, times
  β (1 − tanh²(β W)). A norm layer must follow.

  Args:
    beta: β as an increasing function of the number of updates so far.
    mirror: True for mirror descent, False for the exact gradient.

  Returns:
    A `Quantizer` whose variables are the number of updates so far.

  Raises:
    TypeError: If `beta` is not a function or `mirror` is not a bool.

  References:
    Ajanthan, Gupta, Torr, Hartley, Dokania, `Mirror Descent View for Neural
    Network Quantization <https://arxiv.org/abs/1910.08237>`_, 2021, eqs. (8) to
    (11): MD-tanh-s, and its projected-gradient counterpart
  """
  check_schedule(beta=beta)
  check_switch(mirror=mirror)

  def relaxed(w_tilde: Array, variables: Array) -> Array:
    return jnp.tanh(beta(variables) * w_tilde).astype(w_tilde.dtype)

  def exact(g_hat: Array, w_tilde: Array, variables: Array) -> Array:
    b = beta(variables)
    return (g_hat * b * sech_squared(b * widened(w_tilde))).astype(g_hat.dtype)

  return Quantizer(
    binary().codes,
    init=lambda w: jnp.zeros((), jnp.int32),
    straight_through=(lambda g_hat, w_tilde, variables: g_hat)
    if mirror
    else exact,
    update=lambda variables, w_tilde, w_hat, g_hat: variables + 1,
    relaxed=relaxed,
  )


class Sampled(NamedTuple):
  """Variables of `bayes_binn` for one layer: the key of the next noise."""

  key: Array


@prints_call
def bayes_binn(
  *,
  temperature: float = 1.0,
  start: float | None = None,
  seed: int = 0,
  stability: float = 1e-10,
) -> Quantizer:
  """Trains a Bernoulli distribution over binary weights: BayesBiNN.

  W is λ, the natural parameter of the distribution. The loss receives
  w = tanh((λ + δ)/τ) with δ = ½ ln(u/(1 − u)), u uniform, and the gradient of λ
  is g_hat (1 − w²) / (τ (1 − tanh²(λ))). A weight is quantized to sign(λ). For
  the prior λ = 0 add a weight decay. A norm layer must follow.

  Args:
    temperature: τ, positive.
    start: λ starts at `start` · W / mean|W| of the layer, so that samples of
      trained weights keep most signs. None starts at W; the authors draw ±10.
    seed: Seed of the noise, which also depends on the first weights of a layer,
      and from the second step on on its gradients.
    stability: Positive number added to 1 − w² and 1 − tanh²(λ).

  Returns:
    A `Quantizer` with `Sampled`.

  Raises:
    ValueError: If `temperature`, `start` or `stability` is not positive.

  References:
    Meng, Bachmann, Khan, `Training Binary Neural Networks using the Bayesian
    Learning Rule <https://arxiv.org/abs/2002.10778>`_, 2020, eqs. (7) to (9),
    with one sample per step
  """
  check_positive(temperature=temperature, stability=stability)

  def folded(key: Array, values: Array) -> Array:
    """Folds a number that depends on all signs and places into a key."""
    numbers = jax.random.normal(key, values.shape, jnp.float32)
    product = jnp.sum(numbers * values.astype(jnp.float32))
    bits = jax.lax.bitcast_convert_type(product, jnp.uint32)
    return jax.random.key_data(jax.random.fold_in(key, bits))

  def init(w: Array) -> Sampled:
    # A quantizer gets no key, so the weights distinguish the layers.
    return Sampled(folded(jax.random.key(seed), w))

  def noisy(w_tilde: Array, variables: Sampled) -> Array:
    key = jax.random.wrap_key_data(variables.key)
    wide = widened(w_tilde)
    noise = jax.random.logistic(key, wide.shape, wide.dtype) / 2
    return (wide + noise) / temperature

  def straight_through(
    g_hat: Array, w_tilde: Array, variables: Sampled
  ) -> Array:
    slope = sech_squared(noisy(w_tilde, variables)) + stability
    slope /= temperature * (sech_squared(widened(w_tilde)) + stability)
    return (g_hat * slope).astype(g_hat.dtype)

  def update(
    variables: Sampled, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> Sampled:
    # The gradient distinguishes trials, which may start from equal weights.
    key = jax.random.wrap_key_data(variables.key)
    return Sampled(folded(jax.random.split(key, 1)[0], g_hat))

  return Quantizer(
    binary().codes,
    init=init,
    straight_through=straight_through,
    update=update,
    relaxed=lambda w_tilde, variables: jnp.tanh(
      noisy(w_tilde, variables)
    ).astype(w_tilde.dtype),
    parametrized=scaled_start(start),
  )
