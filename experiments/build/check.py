"""The check of a configuration, before any long work starts."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import mq_jax
from experiments.build.base_model import have_one_start, is_from_scratch
from experiments.build.estimators import ESTIMATORS
from experiments.build.key import check_value, subset
from experiments.build.methods import METHODS
from experiments.build.networks import NETWORKS, make_network
from experiments.build.parts import RunParts, make_parts
from experiments.build.schema import KEYS, TABLES, check_effect
from experiments.common.errors import ConfigError
from experiments.data.datasets import DATASETS
from mq_jax import selection

LARGEST_SEED = 2**31 - 1  # A jax key of 32 bits takes no larger seed.


def check(config: ConfigDict) -> None:
  """Refuses unknown keys, values out of range and parts that do not fit.

  Args:
    config: Any configuration.

  Raises:
    ConfigError: If the configuration is refused. The message names the key, its
      value and what is allowed.
  """
  if unknown := sorted(set(config) - set(KEYS)):
    raise ConfigError(
      f'unknown config keys {unknown}: the keys are {sorted(KEYS)}.'
    )
  if missing := sorted(set(KEYS) - set(config)):
    raise ConfigError(
      f'config keys {missing} are missing: start from'
      ' experiments.configs.resnet20.get_config().'
    )
  for name, key in KEYS.items():
    check_value(f'config.{name}', key, config[name])
  # These keys say what network it is. Keys of estimators, such as the hidden
  # size, may keep their values where another estimator is compared.
  of_network = ('network', 'quantizer', 'activation_quantizer')
  entries = (e for name in of_network for e in TABLES[name].values())
  check_effect(config, {name for entry in entries for name in entry.reads})
  # A size of images that the data set does not have would be ignored.
  read = {name for entry in DATASETS.values() for name in entry.reads}
  check_effect(config, {name for name in read if not KEYS[name].training})
  related = {name for name, key in KEYS.items() if key.needs}
  related |= {KEYS[name].needs for name in related}
  check_effect(config, related | {'group_size', 'quantize_ends'})
  dataset = DATASETS[config.dataset]
  _check_network(config)
  dataset.check(subset(config, dataset.reads))
  _check_seeds(config)
  _check_start_and_batch(config)
  _check_quantizer(config)
  _check_estimator(config)
  _check_decay(config)
  try:
    # The number of classes matters only where tokens are embedded.
    net = make_network(config, dataset.vocabulary or 10)
    parts = make_parts(config, 1)
    # This checks the other arguments and does not call the loss.
    no_loss: Any = None
    mq_jax.make_train_step(no_loss, **parts.step_arguments)
    _check_leaves(config, parts, net)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _check_network(config: ConfigDict) -> None:
  """Refuses a network that does not fit the data or the quantized leaves."""
  network, dataset = NETWORKS[config.network], DATASETS[config.dataset]
  name = f'config.network={config.network!r}'
  if network.inputs != dataset.inputs:
    fitting = [n for n, d in DATASETS.items() if d.inputs == network.inputs]
    raise ConfigError(
      f'{name} takes {network.inputs}, but config.dataset={config.dataset!r}'
      f' has {dataset.inputs}: set config.dataset to {" or ".join(fitting)}, or'
      ' use another network.'
    )
  if dataset.vocabulary and config.loss != 'cross_entropy':
    raise ConfigError(
      f'config.loss={config.loss!r} is not measured in bits: set'
      f" config.loss='cross_entropy' with config.dataset={config.dataset!r}."
    )
  if config.quantize_ends and not network.ends:
    raise ConfigError(
      f'config.quantize_ends=True has no effect with {name}, all of whose'
      ' kernels are quantized: leave config.quantize_ends at False.'
    )
  if config.recalibrate and network.inputs == 'tokens':
    raise ConfigError(
      f'config.recalibrate={config.recalibrate} has no effect with {name},'
      ' which has no batch statistics: set config.recalibrate=0.'
    )
  if config.new_head and config.tied:
    raise ConfigError(
      'config.new_head=True needs a last layer of its own: set'
      ' config.tied=False.'
    )
  if config.group_size and config.per_channel:
    raise ConfigError(
      'config.per_channel=True has no effect on groups, which are within a'
      ' channel: leave config.per_channel at False with'
      f' config.group_size={config.group_size}.'
    )
  if METHODS[config.quantizer].for_trained and network.stacked:
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} quantizes layer by layer, but'
      f' {name} has a stack of layers: use another quantizer.'
    )


def _check_seeds(config: ConfigDict) -> None:
  """Refuses seeds that jax cannot take, and trials without common weights."""
  if config.seed + config.trials - 1 > LARGEST_SEED:
    raise ConfigError(
      f'config.seed={config.seed!r} with config.trials={config.trials!r} must'
      f' end at {LARGEST_SEED} at most.'
    )
  if config.trials > 1 and not have_one_start(config):
    raise ConfigError(
      f'With config.trials={config.trials}, all trials must start from the same'
      ' weights, but the weights of this run, or those of its last layer, are'
      ' random: set config.pretrained with config.new_head=False, or run one'
      ' seed at a time.'
    )


def _check_start_and_batch(config: ConfigDict) -> None:
  """Refuses a new last layer of no file, and batches that cannot be split."""
  if config.new_head and not config.pretrained:
    raise ConfigError(
      'config.new_head=True replaces the last layer of a model file: set'
      ' config.pretrained, or config.new_head=False.'
    )
  if config.new_head and config.epochs == 0:
    raise ConfigError(
      'config.new_head=True leaves the last layer random with config.epochs=0:'
      ' set config.epochs, or config.new_head=False.'
    )
  if config.distill and not have_one_start(config):
    raise ConfigError(
      f'config.distill={config.distill!r} takes soft labels from the network'
      ' that the run starts from, but its last layer is random: set'
      ' config.pretrained or config.pretrain_epochs with config.new_head=False,'
      ' or config.distill=0.'
    )
  if config.batch_size % config.accumulate:
    raise ConfigError(
      f'config.accumulate={config.accumulate} must divide'
      f' config.batch_size={config.batch_size}.'
    )
  if config.mesh_data == 0:
    raise ConfigError('config.mesh_data=0 must be a number of devices, or -1.')
  if config.fsdp and config.mesh_data == 1:
    raise ConfigError(
      'config.fsdp=True divides weights over several devices: set'
      ' config.mesh_data to their number, or to -1.'
    )


def _check_quantizer(config: ConfigDict) -> None:
  """Refuses a method that does not fit the length or the start of the run."""
  method = METHODS[config.quantizer]
  name = f'config.quantizer={config.quantizer!r}'
  if config.epochs == 0 and config.quantizer == 'none':
    raise ConfigError(f'config.epochs=0 with {name} leaves nothing to do.')
  if method.for_trained and config.epochs:
    raise ConfigError(
      f'{name} quantizes trained networks: set config.epochs=0.'
    )
  if method.for_trained and is_from_scratch(config):
    raise ConfigError(
      f'{name} quantizes trained networks: set config.pretrained, or'
      ' config.pretrain_epochs to train one first.'
    )


def _check_estimator(config: ConfigDict) -> None:
  """Refuses an estimator if there is nothing to estimate or to learn."""
  name = f'config.estimator={config.estimator!r}'
  if config.quantizer == 'none' and config.estimator != 'ste':
    raise ConfigError(
      f"{name} has nothing to estimate with config.quantizer='none': set"
      " config.estimator='ste'."
    )
  if not ESTIMATORS[config.estimator].learned:
    if config.slim or config.per_layer:
      raise ConfigError(
        f'config.estimator={config.estimator!r} learns nothing, so config.slim'
        ' and config.per_layer must be False.'
      )
    return
  if config.epochs == 0:
    raise ConfigError(
      f"{name} learns nothing with config.epochs=0: set config.estimator='ste'."
    )


def _check_decay(config: ConfigDict) -> None:
  """Refuses epochs of decay that are not ascending numbers."""
  epochs = config.decay_at.split()
  numbers = [int(epoch) for epoch in epochs if epoch.isdecimal()]
  if len(numbers) < len(epochs) or sorted(set(numbers)) != numbers:
    raise ConfigError(
      f'config.decay_at={config.decay_at!r} must be ascending epochs separated'
      ' by spaces.'
    )


def _check_leaves(config: ConfigDict, parts: RunParts, net: Any) -> None:
  """Refuses rules and estimators that do not fit the leaves of the network."""
  declared = ESTIMATORS[config.estimator]
  by_shape = declared.needs_shapes or declared.reads_cells
  by_shape |= NETWORKS[config.network].inputs == 'tokens'
  if not (config.float_layers or config.group_size or by_shape):
    return
  params = _param_shapes(net, DATASETS[config.dataset].input_spec(config))
  selected = selection.select(params, parts.rules)
  leaves = selection.named_leaves(params)
  if declared.reads_cells and selected:
    _check_cells(config, selected)
  if config.group_size:
    _check_groups(config, selected, leaves)
  jax.eval_shape(
    lambda leaves: parts.step_arguments['estimator'].init(
      jax.random.key(0), leaves
    ),
    {path: leaves[path] for path in selected},
  )


def _check_groups(
  config: ConfigDict,
  selected: Mapping[str, mq_jax.Quantizer],
  leaves: Mapping[str, Any],
) -> None:
  """Refuses a size of groups that does not fit a leaf or the quantizer."""

  def codes(quantizer: mq_jax.Quantizer, w: jax.Array) -> Any:
    theta = quantizer.parametrized(w) if quantizer.parametrized else w
    variables = quantizer.init(w)
    return quantizer.codes(quantizer.preprocess(theta, variables), variables)

  for path, quantizer in selected.items():
    try:
      jax.eval_shape(functools.partial(codes, quantizer), leaves[path])
    except ValueError as error:
      raise ConfigError(
        f'config.group_size={config.group_size} does not fit {path} with'
        f' config.quantizer={config.quantizer!r}: {error} In a configuration,'
        ' set another config.group_size or 0, or keep the leaf in full'
        ' precision by config.float_layers.'
      ) from error


def _check_cells(
  config: ConfigDict, selected: Mapping[str, mq_jax.Quantizer]
) -> None:
  """Refuses a rule that reads distances if a quantizer has no distances."""
  for path, quantizer in selected.items():
    if quantizer.unrounded is None:
      raise ConfigError(
        f'config.estimator={config.estimator!r} reads the distance of {path}'
        f' from a threshold, but config.quantizer={config.quantizer!r} does not'
        " round to the nearest level in the loss: set config.estimator='ste'."
      )


@functools.lru_cache
def _param_shapes(net: Any, input_spec: jax.ShapeDtypeStruct) -> Any:
  """Returns the shapes of a network's parameters, without computing any."""
  inputs = jnp.zeros((1, *input_spec.shape), input_spec.dtype)
  variables = jax.eval_shape(
    lambda: net.init(jax.random.key(0), inputs, train=False)
  )
  return variables['params']
