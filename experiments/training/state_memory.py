"""The memory that the state of a run needs, known before it is allocated."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from rich.filesize import decimal

import mq_jax
from experiments.common.errors import InvalidError
from experiments.common.placement import spec_of

# Fields of `mq_jax.State`, by the part of the description that they belong to.
_PARTS = {
  'weights': ('params', 'model_state', 'variables'),
  'gradients': ('grads',),
  'optimizer': ('refine_state', 'post_update_state'),
  'estimator': ('phi', 'meta_opt_state', 'estimator_state'),
}


def bytes_per_device(state: mq_jax.State, divided_over: int) -> dict[str, int]:
  """Returns the bytes that one device keeps between steps, by part.

  Args:
    state: Arrays, or their shapes, with a leading axis of trials.
    divided_over: Devices that the large arrays are divided over, or 1.
  """

  def size(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return 0
    count = math.prod(leaf.shape)
    if spec_of(leaf.shape[1:], divided_over):
      count //= divided_over
    return int(count * leaf.dtype.itemsize)

  fields = state._asdict()
  return {
    part: sum(
      size(leaf) for name in names for leaf in jax.tree.leaves(fields[name])
    )
    for part, names in _PARTS.items()
  }


def describe_state(
  state: mq_jax.State, *, divided_over: int, available: int | None
) -> str:
  """Returns a line with the size of the state and of its large parts.

  Args:
    state: As for `bytes_per_device`.
    divided_over: As for `bytes_per_device`.
    available: Bytes of memory of one device; None if it is not known.

  Raises:
    InvalidError: If the state alone is larger than the memory.
  """
  parts = bytes_per_device(state, divided_over)
  whole = sum(parts.values())
  line = f'state: {decimal(whole)}'
  if divided_over > 1:
    line += ' per device'
  sizes = sorted(parts.items(), key=lambda item: -item[1])
  large = [(part, n) for part, n in sizes if n > whole / 1000]
  line += ' (' + ', '.join(f'{part} {decimal(n)}' for part, n in large) + ')'
  if available is not None and whole > available:
    remedy = 'config.fsdp=True with several devices'
    if sizes[0][0] == 'estimator':
      remedy += ', config.memory_dtype=bfloat16, or a smaller config.hidden'
    raise InvalidError(
      f'The device has {decimal(available)} of memory, which is less than the'
      f' {line}. Try fewer config.trials, {remedy}.'
    )
  return line


def available_memory() -> int | None:
  """Returns the bytes of memory of a device; None if JAX does not know them."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')
