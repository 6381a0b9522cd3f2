"""Unfolding: the statistics of norms that a file contains in folded form.

A folded norm is a scale and a shift, which say nothing of the mean and the
variance of its inputs. Training normalises by those of the batch, so that a
network with folded norms would compute another function in its first step. Here
the norms get the mean m and the variance v of their inputs z on given images,
and a scale and a bias that give the same function:

  (z − mean) / √(var + ε) · scale + bias = f · z + shift
                                         = (z − m) / √(v + ε) · scale' + bias',
  scale' = f · √(v + ε),   bias' = shift + f · m.

The kernel before the norm contains the factor of the folded norm, which acts as
a learning rate per channel. The kernel is therefore divided by √(v + ε) first,
so that v is 1, as after an initialization that keeps the variance.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mq_jax.models.batch_norm import BatchNorm
from mq_jax.models.folding import norm_of
from mq_jax.selection import named_leaves, replace

Array = jax.Array
# Largest change of a logit, relative to the largest logit.
_TOLERANCE = 1e-2


def unfold_norms(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> tuple[Any, Any]:
  """Returns the same function with norms that have the statistics of images.

  In evaluation the network gives the same logits as before, up to rounding. In
  training it gives them on these images too, since each norm then has the
  statistics of the batch.

  Args:
    net: Network whose norms are `BatchNorm`. The norm of `conv1/kernel` is
      `norm1`, and that of any other layer has its name and `_norm`. It must
      directly follow the layer.
    params: Nested dicts with the `scale` and `bias` of the norms.
    batch_stats: Nested dicts with the `mean` and `var` of the norms.
    images: Normalised images, `(batch, height, width, channels)`.

  Returns:
    `(params, batch_stats)` with other norms, and other kernels before them.

  Raises:
    ValueError: If the logits change by more than rounding errors, because a
      norm does not directly follow the layer of its name.
  """
  leaves, stats = named_leaves(params), named_leaves(batch_stats)
  kernels = {norm_of(path): path for path in leaves if path.endswith('/kernel')}
  measured = jax.jit(_input_statistics, static_argnums=0)(
    net, params, batch_stats, images
  )
  for norm, (m, v, epsilon) in measured.items():
    scale, bias, mean, var = (
      named[f'{norm}/{name}']
      for named, name in (
        *((leaves, 'scale'), (leaves, 'bias')),
        *((stats, 'mean'), (stats, 'var')),
      )
    )
    factor = scale / jnp.sqrt(var + epsilon)
    offset = bias - factor * mean
    if norm in kernels:
      gain = 1 / jnp.sqrt(v + epsilon)
      layer = kernels[norm].removesuffix('kernel')
      for path in (f'{layer}kernel', f'{layer}bias'):
        if path in leaves:
          leaf = leaves[path]
          leaves[path] = leaf * lax.expand_dims(gain, range(leaf.ndim - 1))
      m, v, factor = gain * m, gain**2 * v, factor / gain
    leaves[f'{norm}/scale'] = factor * jnp.sqrt(v + epsilon)
    leaves[f'{norm}/bias'] = offset + factor * m
    stats[f'{norm}/mean'], stats[f'{norm}/var'] = m, v
  unfolded = replace(params, leaves), replace(batch_stats, stats)
  before, after = (
    _logits(net, *variables, images)
    for variables in ((params, batch_stats), unfolded)
  )
  error, largest = jnp.max(jnp.abs(after - before)), jnp.max(jnp.abs(before))
  # NaN is an error, too.
  if not error <= _TOLERANCE * largest:
    raise ValueError(
      f'The logits change by {error:.2g}, and the largest one is {largest:.2g}:'
      ' a norm does not directly follow the layer of its name, such as norm1'
      ' after conv1 or stem_norm after stem. Rename the layers.'
    )
  return unfolded


@functools.partial(jax.jit, static_argnums=0)
def _logits(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> Any:
  variables = {'params': params, 'batch_stats': batch_stats}
  with jax.default_matmul_precision('highest'):
    logits: Any = net.apply(variables, images, train=False)
  return logits.astype(jnp.float32)


def _input_statistics(
  net: nn.Module, params: Any, batch_stats: Any, images: Array
) -> dict[str, tuple[Array, Array, float]]:
  """Returns mean and variance of the inputs of each norm and its ε, by path."""
  measured: dict[str, tuple[Array, Array, float]] = {}

  def measure(
    call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
  ) -> Any:
    norm = context.module
    if isinstance(norm, BatchNorm) and context.method_name == '__call__':
      x = args[0].astype(jnp.promote_types(jnp.float32, args[0].dtype))
      axes = tuple(range(x.ndim - 1))
      found = jnp.mean(x, axes), jnp.var(x, axes), norm.epsilon
      measured['/'.join(norm.path)] = found
    return call(*args, **kwargs)

  with nn.intercept_methods(measure):
    net.apply(
      {'params': params, 'batch_stats': batch_stats}, images, train=False
    )
  return measured
