"""Maps a quantizer over slices of a weight: layers, channels, heads, groups."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mq_jax.checks import check_count
from mq_jax.printing import describe, prints_call
from mq_jax.quantizers.base import Quantizer, Variables

Array = jax.Array

# What the functions of a quantizer take and return. A `theta`, θ or W̃, starts
# with the axes of the weight; `parametrized` may add axes at the end.
_TYPES = {
  'codes': ('theta', 'variables', 'weight'),
  'init': ('weight', 'variables'),
  'preprocess': ('theta', 'variables', 'theta'),
  'straight_through': ('weight', 'theta', 'variables', 'theta'),
  'calibrate': ('theta', 'theta', 'variables', 'theta'),
  'update': ('variables', 'theta', 'weight', 'weight', 'variables'),
  'saturated': ('theta', 'variables', 'weight'),
  'unrounded': ('theta', 'variables', 'weight'),
  'relaxed': ('theta', 'variables', 'weight'),
  'parametrized': ('weight', 'theta'),
}


@prints_call
def per(
  quantizer: Quantizer,
  /,
  axes: int | Sequence[int] = (),
  *,
  group_size: int | None = None,
  group_axis: int = -2,
) -> Quantizer:
  """Quantizes each slice of a weight separately, with levels of its own.

  A quantizer computes its scale from the whole leaf. A leaf that stacks the
  kernels of several layers (`nn.scan`), heads or experts needs several scales:

    per(twn(), axes=0)                      per layer of a scanned stack
    per(bwn(), axes=-1)                     per output channel
    per(dorefa(2), axes=(0, -1))            per layer and output channel
    per(bwn(), axes=-1, group_size=64)      per output channel and 64 inputs

  All functions of the quantizer are mapped. The mapped axes lead the axes of
  its variables, such as the trained scales of `ttq`. `lq_nets` and
  `clipped_uniform` already have levels per output channel, the last axis of
  what they receive, so they can be mapped over the other axes only.

  Examples:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([[1.0, 10.0], [-3.0, -30.0]])
    >>> per_channel = mq_jax.per(mq_jax.bwn(clip=None), axes=-1)
    >>> print(mq_jax.quantize(per_channel, w, ()))
    [[  2.  20.]
     [ -2. -20.]]

  Args:
    quantizer: Quantizer of one slice.
    axes: Axes of the weight. Each index of these axes has its own slice.
    group_size: Number of adjacent indices of `group_axis` in a slice. It
      divides the length of that axis. None makes no groups.
    group_axis: Axis that is split into groups. The default is the axis of the
      inputs in JAX's layouts, (..., inputs, outputs).

  Returns:
    A `Quantizer` with one table of levels per slice, as `Quantizer.codes`
    describes.

  Raises:
    TypeError: If `quantizer` is not a `Quantizer`, or an axis is not an
      integer.
    ValueError: If `axes` and `group_size` are both missing; if `group_size` is
      not a positive integer; or, when the quantizer is applied, if an axis does
      not exist or appears twice, if `group_size` does not divide its axis, if
      each weight would have levels of its own, or if the quantizer already has
      levels along the last axis of the weight and `per` maps that axis.
  """
  if not isinstance(quantizer, Quantizer):
    raise TypeError(
      f'per takes a Quantizer such as mq_jax.bwn(), not {describe(quantizer)}.'
    )
  axes = tuple(axes) if isinstance(axes, Sequence) else (axes,)
  for axis in (*axes, group_axis):
    if isinstance(axis, bool) or not hasattr(axis, '__index__'):
      raise TypeError(f'The axis {axis!r} of per must be an integer.')
  if group_size is not None:
    check_count('group_size', group_size)
  elif group_axis != -2:
    raise ValueError(
      f'group_axis={group_axis} of per has no effect without a group_size.'
    )
  elif not axes:
    raise ValueError('per needs axes or a group_size: per(mq_jax.bwn(), -1).')
  added = _added_axes(quantizer)

  def mapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    *takes, returns = _TYPES[name]

    @functools.wraps(function)
    def over_slices(*args: Any) -> Any:
      shape = next(
        arg.shape[: arg.ndim - (added if kind == 'theta' else 0)]
        for kind, arg in zip(takes, args, strict=True)
        if kind != 'variables'
      )
      slices = _slices(shape, axes, group_size, group_axis)
      inner = function
      for outer, axis in reversed(list(enumerate(slices.axes))):
        # The outer maps have removed as many axes before this one.
        in_axes = [0 if kind == 'variables' else axis - outer for kind in takes]
        out_axes = 0 if returns == 'variables' else axis - outer
        inner = jax.vmap(inner, in_axes, out_axes)
      split = [
        arg if kind == 'variables' else slices.split(arg)
        for kind, arg in zip(takes, args, strict=True)
      ]
      result = inner(*split)
      if returns == 'variables':
        return result
      return jax.tree.map(slices.join, result)

    return over_slices

  functions: dict[str, Any] = {
    name: mapped(name, getattr(quantizer, name))
    for name in _TYPES
    # The defaults act on each weight separately.
    if getattr(quantizer, name) is not Quantizer._field_defaults.get(name)
  }

  @functools.wraps(quantizer.codes)
  def codes(w_tilde: Array, variables: Variables) -> tuple[Array, Array]:
    ndim = w_tilde.ndim - added
    used = axes if group_size is None else (*axes, group_axis)
    maps_last = any(axis % ndim == ndim - 1 for axis in used)
    function = _with_full_tables(quantizer.codes, own_last=not maps_last)
    return mapped('codes', function)(w_tilde, variables)

  return quantizer._replace(**functions | {'codes': codes})


def _with_full_tables(
  codes: Callable[[Array, Variables], tuple[Array, Array]], own_last: bool
) -> Callable[[Array, Variables], tuple[Array, Array]]:
  """Returns `codes` with levels that have one more axis than the codes.

  Unless `own_last` is True, several tables along the last axis are an error.
  """

  @functools.wraps(codes)
  def with_full_tables(
    w_tilde: Array, variables: Variables
  ) -> tuple[Array, Array]:
    code, levels = codes(w_tilde, variables)
    if levels.ndim == 1:
      levels = levels.reshape((1,) * code.ndim + levels.shape)
    elif not own_last and levels.shape[-2] > 1:
      raise ValueError(
        'The quantizer already has levels for each index of the last axis:'
        ' leave the last axis out of per.'
      )
    return code, levels

  return with_full_tables


def _added_axes(quantizer: Quantizer) -> int:
  """Returns the number of axes that θ has after the axes of the weight."""
  if quantizer.parametrized is None:
    return 0
  weight = jax.ShapeDtypeStruct((1, 1), jnp.float32)
  return len(jax.eval_shape(quantizer.parametrized, weight).shape) - 2


class _Slices(NamedTuple):
  """The slices of a weight.

  Attributes:
    axes: Ascending axes over which functions are mapped, after `split`.
    group_axis: Axis that `split` replaces by two, (groups, group size).
    group_size: Length of the second of them, or None without groups.
  """

  axes: list[int]
  group_axis: int
  group_size: int | None

  def split(self, array: Array) -> Array:
    """Splits the axis of the groups into two."""
    if self.group_size is None:
      return array
    return self._with_axes(array, 1, (-1, self.group_size))

  def join(self, array: Array) -> Array:
    """Joins the two axes; levels may have other lengths than the weight."""
    if self.group_size is None:
      return array
    joined = math.prod(array.shape[self.group_axis : self.group_axis + 2])
    return self._with_axes(array, 2, (joined,))

  def _with_axes(
    self, array: Array, replaced: int, lengths: tuple[int, ...]
  ) -> Array:
    """Replaces axes from the axis of the groups on by axes of these lengths."""
    before = array.shape[: self.group_axis]
    after = array.shape[self.group_axis + replaced :]
    return array.reshape(*before, *lengths, *after)


def _slices(
  shape: tuple[int, ...],
  axes: tuple[int, ...],
  group_size: int | None,
  group_axis: int,
) -> _Slices:
  """Returns the slices of a weight of this shape.

  Raises:
    ValueError: If the axes do not fit the shape.
  """
  used = axes if group_size is None else (*axes, group_axis)
  if missing := [a for a in used if not -len(shape) <= a < len(shape)]:
    raise ValueError(
      f'The axis {missing[0]} of per does not exist in a weight of shape'
      f' {shape}: give this leaf a rule of its own.'
    )
  places = [axis % len(shape) for axis in used]
  if len(set(places)) < len(places):
    raise ValueError(
      f'The axes {used} of per name one axis of a weight of shape {shape}'
      ' twice: name each axis once.'
    )
  if group_size is None:
    return _Slices(sorted(places), 0, None)
  *places, group_place = places
  if shape[group_place] % group_size:
    raise ValueError(
      f'group_size={group_size} of per does not divide axis {group_axis} of a'
      f' weight of shape {shape}: choose a divisor of {shape[group_place]}, or'
      ' give this leaf a rule of its own.'
    )
  split_axes = [p + (p > group_place) for p in places] + [group_place]
  return _Slices(sorted(split_axes), group_place, group_size)
