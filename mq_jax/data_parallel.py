"""Averages over the replicas of a map, and checks of mapped and sharded steps.

Inside `jax.shard_map`, `jax.pmap` or `jax.vmap`, each replica receives a part
of the batch, and `axis_name` names the mapped axis. What `loss_fn` returns and
its gradients differ between replicas, and nothing else does. They are averaged
right after the backward pass. The update of the weights and the gradient of φ
follow from these averages and from the state, so they are equal on all
replicas.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mq_jax.loss import LossFn
from mq_jax.selection import named_leaves

AxisName = str | tuple[str, ...]


def axes_of(axis_name: AxisName | None) -> tuple[str, ...] | None:
  """Returns the names in the argument `axis_name` of `make_train_step`.

  Raises:
    TypeError: If `axis_name` is neither None, a name, nor a tuple of names.
    ValueError: If a name is empty, or if `axis_name` contains duplicates.
  """
  if axis_name is None:
    return None
  axes = axis_name if isinstance(axis_name, tuple) else (axis_name,)
  if not all(isinstance(axis, str) for axis in axes):
    raise TypeError(
      f'axis_name={axis_name!r} must be the name of a mapped axis, a tuple of'
      ' names, or None.'
    )
  if not all(axes) or len({*axes}) < len(axes):
    raise ValueError(
      f'axis_name={axis_name!r} must name different axes: pass None to train'
      ' outside of a map.'
    )
  return axes


def bound_axes(axes: Sequence[str]) -> tuple[str, ...]:
  """Returns those of the named axes over which the current trace maps."""
  return tuple(axis for axis in axes if _is_bound(axis))


def check_bound(axes: Sequence[str] | None) -> None:
  """Raises `ValueError` if the current trace does not map over all axes.

  If `axes` is None, the trace may map over no axis on which replicas could
  drift apart unnoticed: JAX follows differences between replicas only in a
  `jax.shard_map` with `check_vma=True`.
  """
  if axes is None:
    _check_no_replicas()
    return
  for axis in axes:
    if not _is_bound(axis):
      raise ValueError(
        f'axis_name contains {axis!r}, but the step does not run in a map over'
        f' an axis of this name{_surroundings()}: call step_fn inside'
        ' jax.shard_map or jax.pmap. Under jit with sharded batches, leave out'
        ' axis_name.'
      )


def _check_no_replicas() -> None:
  for axis in _manual_axes():
    # A value that is marked twice is known to vary, if JAX follows at all.
    is_followed = _varies(_varying(jnp.zeros(()), (axis,)), axis)
    if not is_followed:
      raise ValueError(
        f'The step runs in a map over the axis {axis!r}, and nothing keeps its'
        ' replicas equal: average over them by'
        f' make_train_step(axis_name={axis!r}). If each replica is a training'
        ' of its own, pass axis_name=().'
      )


def check_init(axes: Sequence[str] | None) -> None:
  """Raises `ValueError` if `init` runs in a map over other axes only."""
  if axes is None:
    _check_no_replicas()
  elif axes and not bound_axes(axes) and _manual_axes():
    raise ValueError(
      f'init runs in a map over none of axis_name={tuple(axes)}'
      f'{_surroundings()}, so replicas would start with different gradients:'
      ' give the map this axis name, or call init outside of the map.'
    )


def check_sharding(leaves: Mapping[str, Any]) -> None:
  """Raises `ValueError` if a quantized leaf is divided by explicit axes.

  With axes of the type `Explicit`, the default of `jax.make_mesh`, operations
  such as `levels[codes]` require the sharding of their result.

  Args:
    leaves: Path to quantized leaf.
  """
  for path, leaf in leaves.items():
    spec = jax.typeof(leaf).sharding.spec
    if any(spec):
      raise ValueError(
        f'{path} is divided over a mesh as {spec}, but the axes of the mesh are'
        ' explicit: pass axis_types=(jax.sharding.AxisType.Auto,) to'
        ' jax.make_mesh, one for each axis.'
      )


def value_and_grad(
  loss_fn: LossFn, axes: Sequence[str] | None
) -> Callable[..., tuple[Any, Any]]:
  """Returns `jax.value_and_grad(loss_fn, has_aux=True)`, averaged over `axes`.

  The loss, the gradients, the metrics and the floating point leaves of the
  model state are averaged. Other leaves of the model state are kept.

  Args:
    loss_fn: `(params, model_state, batch, rng) -> (loss, (model_state,
      metrics))`.
    axes: Names of mapped axes, or None; without axes nothing is averaged.

  Returns:
    `(params, model_state, batch, rng) -> ((loss, (model_state, metrics)),
    gradients)`, which raises `ValueError` if the loss differs between replicas
    of the same parameters, as far as JAX knows (`check_vma=True`).
  """

  def averaged(params: Any, *arguments: Any) -> tuple[Any, Any]:
    names = tuple(axes or ())
    result = _averaged(loss_fn, names, params, *arguments)
    _check_invariant(names, result[0][0], params)
    return result

  return averaged


def _averaged(
  loss_fn: LossFn, axes: tuple[str, ...], params: Any, *arguments: Any
) -> tuple[Any, Any]:
  if not axes:
    return jax.value_and_grad(loss_fn, has_aux=True)(params, *arguments)

  # With `check_vma=True`, derivatives with respect to values that are equal on
  # all replicas are sums over the replicas. If parameters and loss count as
  # different on each replica, every kind of map returns the derivative of the
  # summed losses with respect to the parameters of one replica. This also holds
  # if the loss is averaged already, or contains other collectives.
  def varying_loss(params: Any, *arguments: Any) -> tuple[Any, Any]:
    loss, aux = loss_fn(params, *arguments)
    return _varying(loss, axes), aux

  (loss, (model_state, metrics)), grads = jax.value_and_grad(
    varying_loss, has_aux=True
  )(_varying(params, axes), *arguments)
  _check_metrics(metrics)
  loss, metrics, grads = _mean((loss, metrics, grads), axes)
  model_state = jax.tree.map(
    lambda leaf: (
      _mean(leaf, axes)
      if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
      else leaf
    ),
    model_state,
  )
  return (loss, (model_state, metrics)), grads


def _check_metrics(metrics: Mapping[str, Any]) -> None:
  for path, metric in named_leaves(metrics).items():
    if not jnp.issubdtype(jnp.result_type(metric), jnp.inexact):
      raise TypeError(
        f'loss_fn returned the metric {path} of dtype'
        f' {jnp.result_type(metric)}, whose average over replicas is no count:'
        ' return a mean over the batch as a float, such as an accuracy.'
      )


def _mean(tree: Any, axes: tuple[str, ...]) -> Any:
  # A sum over several axes requires values that vary over all of them.
  return lax.pmean(_varying(tree, axes), axes)


def _check_invariant(axes: tuple[str, ...], loss: Any, params: Any) -> None:
  leaves = jax.tree.leaves(params)
  for axis in _manual_axes():
    if _varies(loss, axis) and not all(_varies(w, axis) for w in leaves):
      raise ValueError(
        f'The loss differs along the mapped axis {axis!r}, but the parameters'
        ' do not, so the step would add up gradients: average them by'
        f' make_train_step(axis_name={(*axes, axis) if axes else axis!r}).'
      )


def _varying(tree: Any, axes: tuple[str, ...]) -> Any:
  """Returns the same values, marked as different on each replica."""
  for axis in axes:
    tree = jax.tree.map(lambda leaf, a=axis: _marked(leaf, a)[0], tree)
  return tree


def _varies(leaf: Any, axis: str) -> bool:
  return _marked(leaf, axis)[1]


def _marked(leaf: Any, axis: str) -> tuple[Any, bool]:
  """Returns a varying leaf, and whether JAX knows that it varied before."""
  if axis not in _manual_axes():  # an axis of vmap, which marks nothing
    return leaf, False
  try:
    return lax.pcast(leaf, axis, to='varying'), False
  except ValueError:
    return leaf, True


def _is_bound(axis: str) -> bool:
  try:
    lax.axis_size(axis)
  except NameError:
    return False
  return True


def _manual_axes() -> tuple[str, ...]:
  """Returns the axes of the surrounding shard_map or pmap."""
  return jax.sharding.get_abstract_mesh().manual_axes


def _surroundings() -> str:
  axes = _manual_axes()
  return f' (the map has the axes {axes})' if axes else ''
