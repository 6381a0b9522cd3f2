"""The weights and batch statistics that a run starts from."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from experiments.build.networks import network_options
from experiments.build.schema import KEYS
from experiments.common import processes
from experiments.common.errors import InvalidError
from experiments.data.datasets import DATASETS
from experiments.data.pipeline import Examples
from experiments.records import torch_weights
from experiments.records.model_file import FOLDED, NORMS, SCALES, ModelFile
from mq_jax import selection
from mq_jax.models import measure_numbers, unfold_norms
from mq_jax.selection import named_leaves

MEASURED_IMAGES = 256


def activation_label(config: ConfigDict) -> str:
  """Returns the name under which a model file records its activations.

  Numbers that activations train, such as clips, fit only activations with the
  same label.
  """
  return f'{config.activation_quantizer} {config.activation_bits}'


class Initial(NamedTuple):
  """The variables of a file, or random ones.

  Attributes:
    params: Parameters of the network.
    batch_stats: Statistics of the norms.
    has_numbers: The parameters contain trained clips and step sizes of the
      activations.
    is_folded: The statistics of the norms are unknown.
    is_full_precision: The weights belong to a network with activations in full
      precision.
  """

  params: Any
  batch_stats: Any
  has_numbers: bool = False
  is_folded: bool = False
  is_full_precision: bool = True


def initial_variables(
  config: ConfigDict,
  net: Any,
  input_spec: jax.ShapeDtypeStruct,
  base: str,
) -> Initial:
  """Returns the parameters and batch statistics that a run starts from.

  Args:
    config: A checked configuration.
    net: Linen module.
    input_spec: Shape and type of one input.
    base: Path of the base model; empty for random weights.

  Raises:
    MissingError: If the base model is missing.
    InvalidError: If the base model does not fit the network.
  """

  def random_variables() -> Any:
    inputs = jnp.zeros((1, *input_spec.shape), input_spec.dtype)
    return net.init(jax.random.key(config.seed), inputs, train=False)

  if not base:
    # A network without norms of batches has no statistics.
    return Initial(**{'batch_stats': {}} | jax.jit(random_variables)())
  model = torch_weights.load_any(pathlib.Path(base).expanduser())
  return Initial(
    **_fitted(config, base, model, random_variables),
    has_numbers=model.metadata.get('activations') == activation_label(config),
    is_folded=model.metadata.get(NORMS) == FOLDED,
    is_full_precision=_is_full_precision(model.metadata),
  )


def first_images(examples: Examples) -> Any:
  """Returns images to measure statistics and numbers of activations with."""
  images = examples.batch(0, min(MEASURED_IMAGES, examples.size))['input']
  if not processes.are_several():
    return images
  return multihost_utils.process_allgather(images, tiled=True)


def fit_to_images(
  config: ConfigDict,
  net: Any,
  initial: Initial,
  images: Callable[[], jax.Array],
) -> tuple[Any, Any]:
  """Returns the variables after what images determine.

  New clips and step sizes of activations fit the images, if
  `config.activation_start` is 'measured'. Norms that a file has in folded form
  get the statistics of the images.

  Args:
    config: A checked configuration.
    net: Linen module.
    initial: Result of `initial_variables`.
    images: `() -> images` of the training set, not augmented. It is called only
      if they are needed.

  Returns:
    `(params, batch_stats)`.
  """
  params, batch_stats = initial.params, initial.batch_stats
  if config.activation_start == 'measured' and not initial.has_numbers:
    params = measure_numbers(net, params, batch_stats, images())
  if initial.is_folded:
    params, batch_stats = unfold_norms(net, params, batch_stats, images())
  return params, batch_stats


def _fitted(
  config: ConfigDict,
  base: str,
  model: ModelFile,
  random_variables: Callable[[], Any],
) -> dict[str, Any]:
  """Returns the variables of a base model for the network of a run."""
  if model.metadata.get(SCALES) == FOLDED:
    raise InvalidError(
      f'config.pretrained={base!r} has scales that are folded into its norms,'
      ' which only inference can use: set config.pretrained to the'
      ' model.safetensors of that run.'
    )
  _check_options(config, base, model.metadata)
  _check_teacher(config, base, model.metadata)
  expected = {'batch_stats': {}} | jax.eval_shape(random_variables)
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  is_fresh = []
  if model.metadata.get('activations') != activation_label(config):
    is_fresh.append(_is_number)
  if config.new_head:
    is_fresh.append(_is_in_head)
  if is_fresh:
    variables = _with_fresh(
      variables,
      expected,
      jax.jit(random_variables),
      lambda path: any(test(path) for test in is_fresh),
    )
  for name, loaded in variables.items():
    wanted, found = dict(_shapes(expected[name])), dict(_shapes(loaded))
    for path in sorted(wanted | found):
      if wanted.get(path) != found.get(path):
        made_for = model.metadata.get('network', 'an unknown network')
        raise InvalidError(
          f'config.pretrained={base!r} does not fit config.network='
          f'{config.network!r} on {config.dataset}: in {name}, the shape of'
          f' {path} is {found.get(path, "absent")} and not'
          f' {wanted.get(path, "absent")}. The file was made for {made_for}:'
          f' {_remedy(path)}.'
        )
  return variables


def recorded_options(config: ConfigDict) -> dict[str, str]:
  """Returns the keys that the weights of a run belong to, for its model file.

  Another value of one of them is another function of the same weights.
  """
  options = network_options(config)
  if 'pixels' in DATASETS[config.dataset].reads:
    options['pixels'] = config.pixels
  return options


def _check_options(
  config: ConfigDict, base: str, metadata: Mapping[str, str]
) -> None:
  """Refuses a base model whose network or images have other options.

  Some of them, such as the padding, do not change the shape of any array.
  """
  if metadata.get('network') != config.network:
    return  # The shapes of the arrays differ.
  for name, value in recorded_options(config).items():
    recorded = metadata.get(name, value)
    if recorded != value:
      raise InvalidError(
        f'config.pretrained={base!r} was made for config.{name}={recorded}, but'
        f' this run has config.{name}={value}: set --config.{name}={recorded},'
        ' or use another file.'
      )


def _check_teacher(
  config: ConfigDict, base: str, metadata: Mapping[str, str]
) -> None:
  """Refuses soft labels of a network for other data or other activations."""
  recorded = metadata.get('dataset', config.dataset)
  is_other = recorded != config.dataset
  # A folder may have the classes of ImageNet.
  is_other &= {recorded, config.dataset} != {'folder', 'imagenet'}
  if config.distill and is_other:
    raise InvalidError(
      f'config.distill={config.distill!r} takes soft labels from'
      f' config.pretrained={base!r}, which was trained on {recorded}, not on'
      f' {config.dataset}: use a network of this data set, or set'
      ' config.distill=0.'
    )
  if config.distill and not _is_full_precision(metadata):
    raise InvalidError(
      f'config.distill={config.distill!r} takes soft labels from a network in'
      f' full precision, but config.pretrained={base!r} was trained with the'
      f' activations {metadata["activations"]}: use another file, or set'
      ' config.distill=0.'
    )


def _is_full_precision(metadata: Mapping[str, str]) -> bool:
  label = metadata.get('activations')
  return not label or label.split()[0] == KEYS['activation_quantizer'].default


def _remedy(path: str) -> str:
  """Returns what to do if the shape of a leaf does not fit."""
  if _is_in_head(path):
    return (
      'set config.new_head=True to start with a random last layer for other'
      ' classes, or use another file'
    )
  return 'use another file, or set config.network'


def _is_number(path: str) -> bool:
  """Returns True for a number that a quantized activation trains."""
  return path.endswith('/number')


def _is_in_head(path: str) -> bool:
  return path.startswith(('head/', 'head_norm/'))


def _with_fresh(
  loaded: dict[str, Any],
  expected: dict[str, Any],
  random_variables: Callable[[], Any],
  is_fresh: Callable[[str], bool],
) -> dict[str, Any]:
  """Replaces some loaded leaves with random ones of the network.

  Args:
    loaded: Trees of leaves, by collection.
    expected: The trees of the network, with shapes for leaves.
    random_variables: Function that computes random leaves of these shapes.
    is_fresh: Function of a path within a collection; True for the leaves to
      replace.
  """

  def selected(path: str) -> bool:
    return is_fresh(path.split('/', 1)[1])

  new = [path for path in named_leaves(expected) if selected(path)]
  # Compiling the random leaves takes seconds, so it is left out without need.
  fresh = named_leaves(random_variables()) if new else {}
  old = named_leaves(loaded)
  kept = {path: leaf for path, leaf in old.items() if not selected(path)}
  collections: dict[str, Any] = {name: {} for name in loaded}
  return collections | selection.nested(
    kept | {path: fresh[path] for path in new}
  )


def _shapes(tree: Any) -> list[tuple[str, tuple[int, ...]]]:
  return [(path, jnp.shape(leaf)) for path, leaf in named_leaves(tree).items()]
