"""LQ-Nets: quantization error minimisation learns levels per channel."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax.checks import check_bits, check_number
from mq_jax.precision import widened
from mq_jax.printing import prints_call
from mq_jax.quantizers import Quantizer

Array = jax.Array
_NORMAL_MEDIAN = 0.6745  # of |x|, x standard normal
_RIDGE = 1e-4


@prints_call
def lq_nets(bits: int = 2, *, decay: float = 0.9) -> Quantizer:
  """Quantizes to vᵀb with b in {−1, +1}ᴷ, and a basis v per output channel.

  b selects the nearest of the 2ᴷ levels. Each step moves v towards the best
  basis for these b, v ← decay · v + (1 − decay) · v*, with
  (BᵀB + δI) v* = Bᵀw + δv and δ = 1e-4 (QEM). With 1 bit v* is mean|w| of the
  channel, the scale of `per(bwn(), axes=-1)`. The gradient passes unchanged.

  Args:
    bits: K, 1 to 4. Each weight is compared with all 2ᴷ levels.
    decay: Decay of the moving average, in [0, 1].

  Returns:
    A `Quantizer` whose variables are the basis, shape `(channels, K)`, in
    float32 or wider; the channels are the last axis of the weight.

  Raises:
    ValueError: If `bits` or `decay` is out of range.

  References:
    Zhang, Yang, Ye, Hua, `LQ-Nets <https://arxiv.org/abs/1807.10029>`_, 2018,
    algorithm 1; start, δ and decay from the authors' code. Each step runs one
    round of QEM, on the weights of the last loss.
  """
  bits = check_bits(bits, 1, 4)
  check_number(decay=decay)
  if not 0 <= decay <= 1:
    raise ValueError(f'decay={decay!r} must be in [0, 1].')
  # Row c of the table is the b of code c; its last entry is the highest bit.
  table = np.array(list(itertools.product((-1.0, 1.0), repeat=bits)))[:, ::-1]

  def init(w: Array) -> Array:
    # The authors assume the deviation of He's initialisation.
    fan_out = w.size // w.shape[-2] if w.ndim > 1 else w.size
    unit = _NORMAL_MEDIAN * np.sqrt(2 / fan_out) / 2 ** (bits - 1)
    basis = unit * 2.0 ** np.arange(bits)
    return jnp.broadcast_to(
      jnp.asarray(basis, widened(w).dtype), (w.shape[-1], bits)
    )

  def codes(w_tilde: Array, variables: Array) -> tuple[Array, Array]:
    levels = variables @ jnp.asarray(table.T, variables.dtype)
    levels = levels.reshape((1,) * (w_tilde.ndim - 1) + levels.shape)
    distances = jnp.abs(w_tilde[..., None] - levels)
    code = jnp.argmin(distances, axis=-1).astype(jnp.uint8)
    return code, levels.astype(w_tilde.dtype)

  def update(
    variables: Array, w_tilde: Array, w_hat: Array, g_hat: Array
  ) -> Array:
    code = codes(w_tilde, variables)[0]
    b = jnp.asarray(table, variables.dtype)[code]
    b = b.reshape(-1, w_tilde.shape[-1], bits)
    w = widened(w_tilde).reshape(-1, w_tilde.shape[-1])
    ridge = _RIDGE * jnp.eye(bits, dtype=w.dtype)
    gram = jnp.einsum('nci,ncj->cij', b, b) + ridge[None]
    right = jnp.einsum('nci,nc->ci', b, w) + _RIDGE * variables
    best = jnp.linalg.solve(gram, right[..., None])[..., 0]
    return decay * variables + (1 - decay) * best

  return Quantizer(codes, init=init, update=update)
