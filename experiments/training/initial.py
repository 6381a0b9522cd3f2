"""What a run starts from: random weights, or those of a base model."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.build import train_step
from experiments.common.errors import InvalidError
from experiments.records import final, torch_weights
from mq_jax import selection
from mq_jax.selection import named_leaves


def first_weights(
  config: ConfigDict, net: Any, make_base: Callable[[], pathlib.Path]
) -> tuple[Any, Any]:
  """Parameters and batch statistics to start from.

  Args:
    config: A checked configuration.
    net: Linen module.
    make_base: Trains a base model and says where it is; called if there is to
      be one and none is named.

  Returns:
    `(params, batch_stats)`.

  Raises:
    MissingError: If the base model that is named is missing.
    InvalidError: If the base model does not fit.
  """

  def fresh() -> Any:
    image = jnp.zeros((1, 32, 32, 3))
    return net.init(jax.random.key(config.seed), image, train=False)

  if train_step.is_from_scratch(config):
    variables = jax.jit(fresh)()
    return variables['params'], variables['batch_stats']
  path = config.pretrained or make_base()
  base = torch_weights.load_any(pathlib.Path(path).expanduser())
  wanted = jax.eval_shape(fresh)
  params = base.params
  if base.metadata.get('activations') != final.activations_of(config):
    # What other activations have learned, a clip say, is no step of these.
    params = _with_numbers_of(
      params, jax.jit(fresh)()['params'] if _numbers(wanted['params']) else {}
    )
  for name, new in (('params', params), ('batch_stats', base.batch_stats)):
    differ = set(_shapes(wanted[name])) ^ set(_shapes(new))
    if differ:
      raise InvalidError(
        f'{path} does not fit config.network={config.network!r} on'
        f' {config.dataset}: its {name} differ, for instance in'
        f' {sorted(differ)[:4]}. It was made for {base.metadata}.'
      )
  return params, base.batch_stats


def _with_numbers_of(params: Any, fresh: Any) -> Any:
  """`params` with what the activations of `fresh` train in place of its own."""
  kept = {
    path: leaf
    for path, leaf in named_leaves(params).items()
    if path not in _numbers(params)
  }
  return selection.nested(kept | _numbers(fresh))


def _numbers(params: Any) -> dict[str, Any]:
  """What quantized activations train, by path."""
  return {
    path: leaf
    for path, leaf in named_leaves(params).items()
    if path.endswith('/number')
  }


def _shapes(tree: Any) -> list[tuple[str, tuple[int, ...]]]:
  return [(path, jnp.shape(x)) for path, x in named_leaves(tree).items()]
