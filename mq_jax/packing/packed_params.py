"""Packing a trained network into bits, and unpacking it.

After training, a quantized weight consists of integers and a table of values.
`pack` stores the integers as bits, and `unpack` restores Ŵ bit for bit, with or
without jit. Packed parameters do not contain the estimator, φ, the state of the
optimizer or W itself.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax import selection
from mq_jax.checks import check_switch
from mq_jax.host import on_host
from mq_jax.late_update import Setup, State
from mq_jax.packing import levels
from mq_jax.packing.packed_array import (
  PackedArray,
  is_packed,
  packed_array,
  values,
)
from mq_jax.quantizers import (
  Quantizer,
  at_start,
  check_shared,
  dequantize,
)
from mq_jax.selection import Rules, named_leaves
from mq_jax.state_checks import check_state

Array = jax.Array


class PackedParams(NamedTuple):
  """A trained network with packed weights.

  Attributes:
    params: Pytree of parameters with a `PackedArray` for each quantized leaf.
    model_state: Model state such as batch statistics, `State.model_state`.
    metadata: Texts by name, such as the version of mq_jax.
  """

  params: Any
  model_state: Any
  metadata: dict[str, str]


def pack(
  params: Any,
  quantizer: Rules,
  *,
  quantized: bool = False,
  model_state: Any = None,
  metadata: Mapping[str, str] | None = None,
) -> PackedParams:
  """Packs the quantized weights of a network. Does not work under jit.

  `TrainStep.pack` packs a `State`.

  Examples:
    >>> import jax.numpy as jnp
    >>> params = {'kernel': jnp.array([[0.5, -1.0, 1.5]]), 'bias': jnp.zeros(3)}
    >>> packed = mq_jax.pack(params, mq_jax.bwn())
    >>> print(mq_jax.unpack(packed)['kernel'])
    [[ 1. -1.  1.]]

  Args:
    params: The latent parameters of a method without variables, or parameters
      that are already `quantized`.
    quantizer: The rules of the training (`selection.select`).
    quantized: True if the parameters are already Ŵ, as `TrainStep.quantized`
      and `unpack` return them. They are then packed unchanged. Without it, Ŵ
      would be quantized once more. This is noticed only if a table has four or
      more weights per value, not in nine weights of three values.
    model_state: Pytree of the model state, or None for `{}`.
    metadata: Additional texts by name.

  Returns:
    The `PackedParams`, in host memory. A code of 1 to 8 bits is either the
    index of a value among the sorted values in use, or a position on a grid,
    whichever takes fewer bytes.

  Raises:
    ValueError: If a weight is empty, not finite, or has more than 256 values;
      if each weight of a leaf would have levels of its own;
      if `quantized` does not match the parameters; if the method has variables
      and the parameters are not `quantized`; if a rule applies to no leaf; or
      if `metadata` are not texts.
    TypeError: If `params` is a `State`, if `quantized` is not a bool, or if a
      leaf that a rule quantizes is not floating point.
  """
  if isinstance(params, State):
    raise TypeError(
      'pack received a State, whose rules only its TrainStep knows: call'
      ' train.pack(state).'
    )
  check_switch(quantized=quantized)
  _check_finite(params, quantizer)
  weights = named_leaves(params)
  w_hat = {
    path: _quantized(q, weights[path], path, quantized)
    for path, q in selection.select(params, quantizer).items()
  }
  return _pack(
    selection.replace(params, w_hat), quantizer, model_state, metadata
  )


def pack_state(
  setup: Setup,
  state: State,
  *,
  model_state: Any = None,
  metadata: Mapping[str, str] | None = None,
) -> PackedParams:
  """Packs the network of a state, `TrainStep.pack`. Does not work under jit.

  Args:
    setup: The setup of the train step.
    state: A state of the train step.
    model_state: Pytree that replaces the model state of the state, or None.
    metadata: Additional texts by name.

  Returns:
    The `PackedParams`, in host memory, as `pack` describes. If arrays of the
    state are divided among processes, every process must call `pack`, and all
    receive the whole network.

  Raises:
    TypeError: If `state` is not a `State`.
    ValueError: As `pack`; also if another train step trained the state, or if
      the state contains several trials.
  """
  if not isinstance(state, State):
    raise TypeError(
      f'pack takes a State, not a {type(state).__name__}: pass the state that'
      ' init or step returned, or call mq_jax.pack(params, quantizer).'
    )
  if jnp.ndim(state.step):
    raise ValueError(
      'The state contains trials or replicas of shape'
      f' {jnp.shape(state.step)}: pack one of them,'
      ' jax.tree.map(lambda leaf: leaf[0], state).'
    )
  check_state(setup, state)
  quantizer = setup.quantizer
  _check_finite(state.params, quantizer)
  # TrainStep.quantized is jitted; without jit, rounding could differ.
  params = jax.jit(
    lambda params, variables: selection.quantized(params, quantizer, variables)
  )(state.params, state.variables)
  return _pack(
    params,
    quantizer,
    state.model_state if model_state is None else model_state,
    metadata,
  )


def _pack(
  params: Any,
  quantizer: Rules,
  model_state: Any,
  metadata: Mapping[str, str] | None,
) -> PackedParams:
  """Packs parameters that are Ŵ on the leaves that the rules quantize."""
  texts = dict(metadata or {})
  for name, text in texts.items():
    if not isinstance(name, str) or not isinstance(text, str):
      raise ValueError(f'metadata {name!r}: {text!r} is not text: use str().')
  params = on_host(params)
  leaves = named_leaves(params)
  packed: dict[str, Any] = {
    path: _packed(q, np.asarray(leaves[path]), path)
    for path, q in selection.select(params, quantizer).items()
  }
  return PackedParams(
    selection.replace(params, packed),
    on_host({} if model_state is None else model_state),
    versions() | texts,
  )


def unpack(packed: PackedParams | Any, like: Any = None) -> Any:
  """Returns parameters with Ŵ on the quantized leaves. Works under jit.

  Args:
    packed: `PackedParams`, or a pytree that contains `PackedArray`s, such as
      `PackedParams.params`, which a jitted function can take as an argument.
    like: A pytree of the wanted structure, such as the arrays of an Equinox
      model if `packed` comes from a file. None keeps the structure of `packed`.

  Returns:
    A pytree of arrays: ordinary parameters.

  Raises:
    ValueError: If `like` has other paths, shapes or dtypes, or if the levels
      are float64 and jax has float64 disabled.
  """
  params = packed.params if isinstance(packed, PackedParams) else packed
  params = jax.tree.map(
    lambda leaf: values(leaf) if is_packed(leaf) else leaf,
    params,
    is_leaf=is_packed,
  )
  if like is None:
    return params
  found, wanted = named_leaves(params), named_leaves(like)
  for path in found.keys() | wanted.keys():
    found_type, wanted_type = (
      f'{jnp.result_type(tree[path])}{jnp.shape(tree[path])}'
      if path in tree
      else 'missing'
      for tree in (found, wanted)
    )
    if found_type != wanted_type:
      raise ValueError(
        f'{path} is {found_type} in `packed` and {wanted_type} in `like`: pass'
        ' a `like` of the packed network.'
      )
  return selection.replace(like, found)


def versions() -> dict[str, str]:
  """Returns the versions of mq_jax and jax, for the metadata of a file."""
  from mq_jax import __version__  # the package imports this file

  return {'mq_jax': __version__, 'jax': jax.__version__}


def _packed(quantizer: Quantizer, w_hat: np.ndarray, path: str) -> PackedArray:
  tables = _levels_like(quantizer, w_hat).shape[:-1]
  name = getattr(quantizer.codes, '__qualname__', '').partition('.')[0]
  return packed_array(w_hat, tables, path, name)


def _codes_at_start(quantizer: Quantizer, w: Array) -> tuple[Array, Array]:
  """Returns codes and levels of a weight before training."""
  theta, variables = at_start(quantizer, w)
  return quantizer.codes(quantizer.preprocess(theta, variables), variables)


def _levels_like(quantizer: Quantizer, w: Any) -> jax.ShapeDtypeStruct:
  return jax.eval_shape(functools.partial(_codes_at_start, quantizer), w)[1]


def _quantized(
  quantizer: Quantizer, w: Array, path: str, quantized: bool
) -> Array:
  """Returns Ŵ; raises if the values of `w` contradict `quantized`."""
  like = _levels_like(quantizer, w)
  codes = levels.by_value(np.asarray(on_host(w)), like.shape[:-1])[0]
  count, max_count = int(codes.max()) + 1, like.shape[-1]
  if quantized:
    if count > max_count:
      raise ValueError(
        f'{path} has {count} different values, but its quantizer has'
        f' {max_count} levels, so the leaf is not quantized: leave out'
        ' quantized=True.'
      )
    return w
  if jax.tree.leaves(jax.eval_shape(quantizer.init, w)):
    raise ValueError(
      f'The quantizer of {path} has variables that training changes: pass the'
      ' State, or pass TrainStep.quantized of the State with quantized=True.'
    )
  try:
    check_shared(w, like)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  weights_per_table = np.size(w) // math.prod(like.shape[:-1])
  if 1 < count <= max_count and weights_per_table >= 4 * count:
    raise ValueError(
      f'{path} has {count} different values, so it seems to be quantized'
      ' already: pass quantized=True to pack the leaf unchanged.'
    )
  return jax.jit(lambda w: dequantize(*_codes_at_start(quantizer, w)))(w)


def _check_finite(params: Any, quantizer: Rules) -> None:
  """Raises `ValueError` if a weight is empty or not finite."""
  leaves = named_leaves(params)
  for path in selection.select(params, quantizer):
    weight = np.asarray(on_host(leaves[path])).astype(np.float64)
    selection.check_not_empty(path, weight)
    # Codes cannot represent such values.
    if not np.all(np.isfinite(weight)):
      raise ValueError(
        f'{path} has values that are not finite: pack an earlier checkpoint.'
      )
