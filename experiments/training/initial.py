"""The weights and batch statistics that a run starts from."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.build.networks import network_options
from experiments.common.errors import InvalidError
from experiments.records import torch_weights
from mq_jax import selection
from mq_jax.selection import named_leaves


def activation_label(config: ConfigDict) -> str:
  """Returns the name under which a model file records its activations.

  Numbers that activations train, such as clips, fit only activations with the
  same label.
  """
  return f'{config.activation_quantizer} {config.activation_bits}'


def initial_variables(
  config: ConfigDict,
  net: Any,
  image_shape: tuple[int, int, int],
  base: str,
) -> tuple[Any, Any]:
  """Returns the parameters and batch statistics that a run starts from.

  Args:
    config: A checked configuration.
    net: Linen module.
    image_shape: Height, width and channels of the images.
    base: Path of the base model; empty for random weights.

  Returns:
    `(params, batch_stats)`.

  Raises:
    MissingError: If the base model is missing.
    InvalidError: If the base model does not fit the network.
  """

  def random_variables() -> Any:
    images = jnp.zeros((1, *image_shape))
    return net.init(jax.random.key(config.seed), images, train=False)

  if not base:
    variables = jax.jit(random_variables)()
    return variables['params'], variables['batch_stats']
  model = torch_weights.load_any(pathlib.Path(base).expanduser())
  _check_options(config, base, model.metadata)
  expected = jax.eval_shape(random_variables)
  params = model.params
  if model.metadata.get('activations') != activation_label(config):
    old, new = _numbers(params), _numbers(expected['params'])
    if new:
      new = _numbers(jax.jit(random_variables)()['params'])
    kept = {p: leaf for p, leaf in named_leaves(params).items() if p not in old}
    params = selection.nested(kept | new)
  for name, loaded in (('params', params), ('batch_stats', model.batch_stats)):
    wanted, found = dict(_shapes(expected[name])), dict(_shapes(loaded))
    for path in sorted(wanted | found):
      if wanted.get(path) != found.get(path):
        made_for = model.metadata.get('network', 'an unknown network')
        raise InvalidError(
          f'config.pretrained={base!r} does not fit config.network='
          f'{config.network!r} on {config.dataset}: in {name}, the shape of'
          f' {path} is {found.get(path, "absent")} and not'
          f' {wanted.get(path, "absent")}. The file was made for {made_for}:'
          ' use another file, or set config.network.'
        )
  return params, model.batch_stats


def _check_options(
  config: ConfigDict, base: str, metadata: Mapping[str, str]
) -> None:
  """Refuses a base model whose network has other options.

  Some of them, such as the padding, do not change the shape of any array.
  """
  if metadata.get('network') != config.network:
    return  # The shapes of the arrays differ.
  for name, value in network_options(config).items():
    recorded = metadata.get(name, value)
    if recorded != value:
      raise InvalidError(
        f'config.pretrained={base!r} was made for config.{name}={recorded}, but'
        f' this run has config.{name}={value}: set --config.{name}={recorded},'
        ' or use another file.'
      )


def _numbers(params: Any) -> dict[str, Any]:
  """Returns the numbers that quantized activations train, by path."""
  leaves = named_leaves(params)
  return {path: leaves[path] for path in leaves if path.endswith('/number')}


def _shapes(tree: Any) -> list[tuple[str, tuple[int, ...]]]:
  return [(path, jnp.shape(leaf)) for path, leaf in named_leaves(tree).items()]
