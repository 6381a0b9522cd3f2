"""From trained weights to bits, and back.

After training, a quantized weight is integers and a table of values. `pack`
lays the integers side by side in bytes, `unpack` gives Ŵ back bit for bit, in
or out of jit. The estimator, φ, the optimizer's state and W itself are gone.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mq_jax import levels, selection
from mq_jax.late_update import State
from mq_jax.packed_array import PackedArray, is_packed, packed_array, values
from mq_jax.quantizers import Quantizer, quantize
from mq_jax.selection import Rules, named_leaves

Array = jax.Array


class PackedParams(NamedTuple):
  """A network after training, as small as it gets.

  Attributes:
    params: The pytree of parameters, a `PackedArray` in the place of each
      quantized leaf.
    model_state: Batch statistics and the like, as `State.model_state`.
    metadata: Text by name, such as the version of mq_jax.
  """

  params: Any
  model_state: Any
  metadata: dict[str, str]


def pack(
  state_or_params: State | Any,
  quantizer: Rules,
  *,
  quantized: bool = False,
  model_state: Any = None,
  metadata: Mapping[str, str] | None = None,
) -> PackedParams:
  """Packs the quantized weights of a network. Not under jit.

  Args:
    state_or_params: A `State`: what is packed is `TrainStep.quantized` of it,
      and its model state. Or parameters, to be quantized now by a method that
      has no variables, or see `quantized`.
    quantizer: The rules of the training (`selection.select`).
    quantized: Whether parameters are Ŵ already, such as `TrainStep.quantized`
      or `unpack` give them: then they are packed as they are.
    model_state: Pytree in the place of the state's; `{}` without any.
    metadata: Text by name, kept beside.

  Returns:
    The `PackedParams`, in the memory of the host. Codes number the values of
    a weight that are in use, from the smallest up, or the places on a grid,
    whichever takes fewer bytes; they take 1 to 8 bits.

  Raises:
    ValueError: If a weight is empty, not finite, or has more than 256 values;
      if parameters are quantized and `quantized` is not said, or the other way
      round; if they need the state's variables, or the state has others; if a
      rule decides about no leaf, or `metadata` is no text.
    TypeError: If a leaf to be quantized is not floating point.
  """
  given = dict(metadata or {})
  for name, text in given.items():
    if not isinstance(name, str) or not isinstance(text, str):
      raise ValueError(f'metadata {name!r}: {text!r} is not text: take str().')
  if isinstance(state_or_params, State):
    state = state_or_params
    _check_variables(state, quantizer)
    _check_finite(state.params, quantizer)
    # Jitted as TrainStep.quantized is: another program could round otherwise.
    params = jax.jit(
      lambda params, variables: selection.quantized(
        params, quantizer, variables
      )
    )(state.params, state.variables)
    model_state = state.model_state if model_state is None else model_state
  else:
    params = state_or_params
    _check_finite(params, quantizer)
    weights = named_leaves(params)
    w_hat = {
      path: _quantized_once(q, weights[path], path, quantized)
      for path, q in selection.select(params, quantizer).items()
    }
    params = selection.replace(params, w_hat)
  params = jax.device_get(params)
  leaves = named_leaves(params)
  packed: dict[str, Any] = {
    path: _packed(q, np.asarray(leaves[path]), path)
    for path, q in selection.select(params, quantizer).items()
  }
  return PackedParams(
    selection.replace(params, packed),
    jax.device_get({} if model_state is None else model_state),
    versions() | given,
  )


def unpack(packed: PackedParams | Any, like: Any = None) -> Any:
  """Parameters with Ŵ on the quantized leaves. Under jit too.

  Args:
    packed: `PackedParams`, or a pytree with `PackedArray`s in it, such as their
      `params`: what a jitted function takes as an argument.
    like: A pytree of the structure wanted, such as the arrays of an Equinox
      model where `packed` comes from a file; None: that of `packed`.

  Returns:
    Pytree of arrays: ordinary parameters.

  Raises:
    ValueError: If `like` has other paths, shapes or dtypes, or levels are
      float64 and jax has that switched off.
  """
  params = packed.params if isinstance(packed, PackedParams) else packed
  params = jax.tree.map(
    lambda leaf: values(leaf) if is_packed(leaf) else leaf,
    params,
    is_leaf=is_packed,
  )
  if like is None:
    return params
  ours, wanted = named_leaves(params), named_leaves(like)
  for path in ours.keys() | wanted.keys():
    here, there = (
      f'{jnp.result_type(tree[path])}{jnp.shape(tree[path])}'
      if path in tree
      else 'missing'
      for tree in (ours, wanted)
    )
    if here != there:
      raise ValueError(f'{path} is {here} in `packed` and {there} in `like`.')
  return selection.replace(like, ours)


def versions() -> dict[str, str]:
  """What packed parameters say of where they are from."""
  from mq_jax import __version__  # the package imports this file

  return {'mq_jax': __version__, 'jax': jax.__version__}


def _packed(quantizer: Quantizer, w_hat: np.ndarray, path: str) -> PackedArray:
  tables = _levels_like(quantizer, w_hat).shape[:-1]
  name = getattr(quantizer.codes, '__qualname__', '').partition('.')[0]
  return packed_array(w_hat, tables, path, name)


def _with_own(
  quantizer: Quantizer, w: Array, function: Callable[..., Any]
) -> Any:
  """`function(theta, variables)`, with what training begins with."""
  variables = quantizer.init(w)
  trained = quantizer.parametrized or (lambda w: w)
  return function(trained(w), variables)


def _levels_like(quantizer: Quantizer, w: Any) -> jax.ShapeDtypeStruct:
  def table(theta: Array, variables: Any) -> Array:
    w_tilde = quantizer.preprocess(theta, variables)
    return quantizer.codes(w_tilde, variables)[1]

  return jax.eval_shape(lambda w: _with_own(quantizer, w, table), w)


def _quantized_once(
  quantizer: Quantizer, w: Array, path: str, quantized: bool
) -> Array:
  """Ŵ, of weights that are said to be quantized already or not to be."""
  like = _levels_like(quantizer, w)
  found = levels.by_value(np.asarray(w), like.shape[:-1])[0]
  number, most = int(found.max()) + 1, like.shape[-1]
  if quantized:
    if number > most:
      raise ValueError(
        f'{path} has {number} different values where its quantizer has {most}'
        ' levels, so it is not quantized: leave out quantized=True.'
      )
    return w
  if jax.tree.leaves(jax.eval_shape(quantizer.init, w)):
    raise ValueError(
      f'The quantizer of {path} has variables that training moves: hand over'
      ' the State, or with quantized=True what TrainStep.quantized gives.'
    )
  in_a_table = np.size(w) // math.prod(like.shape[:-1])
  if 1 < number <= most and in_a_table >= 4 * number:
    raise ValueError(
      f'{path} has {number} different values, as if it were quantized already:'
      ' quantized=True takes it as it is.'
    )
  return jax.jit(
    lambda w: _with_own(quantizer, w, functools.partial(quantize, quantizer))
  )(w)


def _check_finite(params: Any, quantizer: Rules) -> None:
  """Raises `ValueError` at weights that no table of levels can hold."""
  leaves = named_leaves(params)
  for path in selection.select(params, quantizer):
    weight = np.asarray(leaves[path]).astype(np.float64)
    if not weight.size:
      raise ValueError(f'{path} is empty: give it a rule with None.')
    # Codes would hide them.
    if not np.all(np.isfinite(weight)):
      raise ValueError(f'{path} has values that are not finite.')


def _check_variables(state: State, quantizer: Rules) -> None:
  """Raises `ValueError` unless the rules are those that trained the state."""
  selected = selection.select(state.params, quantizer)
  leaves = named_leaves(state.params)
  for path in selected.keys() | state.variables.keys():
    if path not in selected or path not in state.variables:
      raise ValueError(
        f'{path} is quantized by these rules and not in the state, or the other'
        ' way round: hand over the rules of the training.'
      )
    q = selected[path]
    wanted: Any = jax.tree.structure(jax.eval_shape(q.init, leaves[path]))
    if wanted != jax.tree.structure(state.variables[path]):
      raise ValueError(
        f'The variables of {path} are those of another quantizer: hand over the'
        ' rules of the training.'
      )
