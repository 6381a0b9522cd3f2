"""All keys of a configuration, each declared once.

The default configuration, the checks, the fingerprint of a run, the
configuration of its base model and the text of `--help` derive from `KEYS` and
from `TABLES`, whose entries declare in `reads` which keys they depend on.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.build import key, losses, optimizers
from experiments.build.estimators import ESTIMATORS
from experiments.build.key import Key
from experiments.build.methods import METHODS
from experiments.build.networks import (
  ACTIVATION_QUANTIZERS,
  DTYPES,
  NETWORKS,
  NUMBER_STARTS,
)
from experiments.build.options import OPTIONS
from experiments.common.errors import ConfigError, InvalidError
from experiments.data.datasets import DATASETS
from experiments.data.photo_pipeline import PIXELS
from mq_jax.estimators import stacks
from mq_jax.estimators.features import FEATURES
from mq_jax.models.layers import PADDINGS
from mq_jax.train_step import PHI_COTANGENTS

# Key to the table of its choices, whose entries have `reads`.
TABLES: dict[str, Mapping[str, Any]] = {
  'network': NETWORKS,
  'activation_quantizer': ACTIVATION_QUANTIZERS,
  'dataset': DATASETS,
  'quantizer': METHODS,
  'estimator': ESTIMATORS,
  'optimizer': optimizers.OPTIMIZERS,
}
KEYS: dict[str, Key] = {
  'network': Key('resnet20', 'Architecture of the network.', base=True),
  'head_norm': Key(False, 'Batch norm after the last layer.', base=True),
  'width': Key(
    1.0,
    'Width multiplier: factor of the number of channels.',
    above=0,
    base=True,
  ),
  'padding': Key(
    'torch',
    "Padding of strided convolutions; same: TensorFlow's.",
    choices=PADDINGS,
    base=True,
  ),
  'activation_quantizer': Key(
    'relu', 'Quantizer of the inputs of layers; relu: full precision.'
  ),
  'activation_bits': Key(2, 'Bits per activation.'),
  'activation_start': Key(
    'constant',
    'First clip or step of activations; measured: the one of least squared'
    ' error on training images, per layer.',
    choices=NUMBER_STARTS,
  ),
  'dataset': Key('cifar10', 'Data set.', base=True),
  'data_dir': Key(
    '',
    'Folder of prepared data sets; empty: $TFDS_DATA_DIR, then'
    ' ~/tensorflow_datasets.',
    base=True,
    folder=True,
  ),
  'pretrained': Key(
    '',
    'Model file to start from, ours or one that import_torch reads'
    ' (.safetensors, .pth, .pt or .npz); empty: train one first.',
    file=True,
  ),
  'new_head': Key(
    False, 'Start with a random last layer, for classes of your own.'
  ),
  'pretrain_epochs': Key(
    164,
    'Epochs of the base model; 0: start from random weights.',
    least=0,
    replaced_by='pretrained',
  ),
  'holdout': Key(
    0, 'Training images to test on instead of the test set.', least=0, base=True
  ),
  'image_size': Key(
    224, 'Side of the crops of photographs, in pixels.', least=8, base=True
  ),
  'resize': Key(
    256,
    'Short side in pixels that test photographs are scaled to.',
    least=8,
    base=True,
  ),
  'pixels': Key(
    'imagenet',
    'Scale of pixels; imagenet: (pixel - mean) / deviation per channel;'
    ' half: (pixel - 128) / 128.',
    choices=PIXELS,
    base=True,
  ),
  'data': Key(
    '',
    'Text file to train on; empty: the documentation of this project.',
    base=True,
    file=True,
  ),
  'context': Key(128, 'Tokens per example.', least=2, base=True),
  'depth': Key(4, 'Blocks of the transformer.', least=1, base=True),
  'embed_dim': Key(128, 'Length of the embeddings.', least=2, base=True),
  'heads': Key(4, 'Attention heads per block.', least=1, base=True),
  'tied': Key(False, 'The head is the transposed embedding.', base=True),
  'workers': Key(
    0,
    'Threads that decode photographs; 0: one per CPU.',
    least=0,
    identity=False,
    base=True,
  ),
  'dtype': Key(
    'float32',
    'Type that layers compute in; parameters stay float32.',
    choices=DTYPES,
    base=True,
  ),
  'seed': Key(
    0, 'Seed of the first trial.', least=0, identity=False, base=True
  ),
  'trials': Key(
    1,
    'Seeds to train as one program: seed, seed + 1, ….',
    least=1,
    identity=False,
  ),
  'mesh_data': Key(
    1,
    'Devices that each batch is split over; -1: all.',
    least=-1,
    identity=False,
    base=True,
  ),
  'fsdp': Key(
    False,
    'Divide weights and states over the devices of mesh_data.',
    identity=False,
    base=True,
  ),
  'quantizer': Key(
    'dorefa', 'Method that quantizes the weights; none: full precision.'
  ),
  'bits': Key(1, 'Bits per weight.'),
  'method': Key({}, 'Options of the method, as --config.method.NAME=VALUE.'),
  'rule': Key({}, 'Options of the estimator, as --config.rule.NAME=VALUE.'),
  'recalibrate': Key(
    0,
    'Batches that batch statistics are measured on before each test; 0: keep'
    ' those of training.',
    least=0,
  ),
  'per_channel': Key(False, 'One scale per filter.'),
  'clip': Key(1.0, 'Clip of the straight-through rule; 0: none.', least=0),
  'scaled_gradient': Key(True, 'Scale the straight-through gradient by α.'),
  'group_size': Key(
    0,
    'Inputs per scale in each output channel; 0: one scale per layer.',
    least=0,
    quantized=True,
  ),
  'quantize_ends': Key(
    False, 'Quantize embedding and head of a transformer too.', quantized=True
  ),
  'float_layers': Key(
    '',
    'Regular expression of the leaves that stay in full precision.',
    quantized=True,
  ),
  'estimator': Key('multi_fc', 'Estimator of gradients.'),
  'hidden': Key(100, 'Hidden size of the estimator.'),
  'layers': Key(2, 'Layers of the stack.'),
  'estimator_activation': Key(
    None, 'Activation of the stack.', choices=stacks.ACTIVATIONS
  ),
  'init': Key('random', 'Initial values of φ.', choices=stacks.INITS),
  'carry': Key(True, 'Keep the memory from step to step.'),
  'memory_dtype': Key('float32', 'Type of the memory.', choices=DTYPES),
  'grid_points': Key(
    0,
    'Points of a grid over each array of weights at which the LSTM is'
    ' evaluated; 0: at every weight.',
    least=0,
  ),
  'features': Key(
    ' '.join(FEATURES), 'Inputs of the estimator, separated by spaces.'
  ),
  'progress_epochs': Key(
    100, 'Epochs after which the feature progress is 1.', least=1
  ),
  'per_layer': Key(False, 'One φ per layer.', learned=True),
  'slim': Key(False, 'Train φ on one random layer per step.', learned=True),
  'phi_cotangent': Key(
    'ste',
    'Rule that converts ∂loss/∂Ŵ to ∂loss/∂W̃ on the path to φ; ste: that of'
    ' the quantizer; estimator: M_φ itself.',
    choices=PHI_COTANGENTS,
    learned=True,
  ),
  'differentiate_refinement': Key(
    False, "Let φ's gradient flow through the optimizer.", learned=True
  ),
  'optimizer': Key('sgd', 'Optimizer of the network.', training=True),
  'eps_root': Key(0.0, 'Number added under the root.', least=0, training=True),
  'weight_decay': Key(
    0.0,
    'Weight decay on all parameters; decoupled with adamw and lion.',
    least=0,
    training=True,
  ),
  'reapply': Key(
    False,
    'Use each weight update twice in the forward pass, as the released code'
    ' does.',
    training=True,
    quantized=True,
  ),
  'learning_rate': Key(
    1e-3, 'α, step size of the network.', least=0, training=True
  ),
  'meta_learning_rate': Key(1e-3, 'γ, step size of φ.', least=0, learned=True),
  'schedule': Key(
    'steps',
    'Schedule of α: it falls in steps, or follows a cosine to 0.',
    choices=optimizers.SCHEDULES,
    training=True,
    quantized=True,
  ),
  'decay_every': Key(
    30,
    'Epochs after which α falls; 0: never.',
    least=0,
    stepwise=True,
    replaced_by='decay_at',
  ),
  'decay_at': Key(
    '', "Epochs at which α falls ('82 123'); empty: decay_every.", stepwise=True
  ),
  'decay_factor': Key(
    0.1, 'Factor by which each fall multiplies α.', above=0, stepwise=True
  ),
  'meta_optimizer': Key(
    'adam', 'Optimizer of φ.', choices=optimizers.META_OPTIMIZERS, learned=True
  ),
  'meta_decay_every': Key(
    30,
    'Epochs after which γ is divided by 10; 0: never.',
    least=0,
    learned=True,
  ),
  'meta_every': Key(1, 'Steps per update of φ.', least=1, learned=True),
  'meta_stop': Key(
    0, 'Epochs after which φ is constant; 0: never.', least=0, learned=True
  ),
  'loss': Key(
    'cross_entropy', 'Loss of the network.', choices=losses.LOSSES, base=True
  ),
  'distill': Key(
    0.0,
    "Share of the base model's soft labels in the loss, from 0 to 1.",
    least=0,
    most=1,
    training=True,
    quantized=True,
  ),
  'distill_temperature': Key(
    4.0,
    'Temperature of the soft labels.',
    above=0,
    training=True,
    quantized=True,
    needs='distill',
  ),
  'augment': Key(
    True, 'Crop and mirror training images.', base=True, training=True
  ),
  'batch_size': Key(128, 'Images per step.', least=1, base=True, training=True),
  'epochs': Key(100, 'Epochs; 0: only quantize.', least=0),
  'last_epochs': Key(
    0,
    'Last epochs whose mean test accuracy is the result; 0: a tenth of all.',
    least=0,
    identity=False,
  ),
  'accumulate': Key(
    1,
    'Parts of each batch, computed one after another to save memory.',
    least=1,
    base=True,
    training=True,
  ),
  'epoch_steps': Key(
    0,
    'Maximum steps per epoch; 0: all batches.',
    least=0,
    base=True,
    training=True,
  ),
  'chunk': Key(
    10,
    'Steps per compiled call; a run can stop between two calls.',
    least=1,
    identity=False,
    base=True,
  ),
  'checkpoint_every': Key(
    100,
    'Steps between checkpoints; each epoch ends with one.',
    least=1,
    identity=False,
    base=True,
  ),
}
KEYS |= {name: KEYS[name]._replace(choices=TABLES[name]) for name in TABLES}


def default_config() -> ConfigDict:
  """Returns the default configuration: MetaQuant's Table 1, ResNet20."""
  return key.defaults(KEYS)


def recorded_config(values: Mapping[str, Any], source: object) -> ConfigDict:
  """Returns the configuration that a file recorded; missing keys have defaults.

  Args:
    values: Recorded keys and values.
    source: Path of the file, for the message.

  Raises:
    InvalidError: If a key is unknown, because its value would be ignored.
  """
  if unknown := sorted(set(values) - set(KEYS)):
    raise InvalidError(
      f'{source} has the unknown config keys {unknown}: another version of this'
      ' code wrote it. Use that version, or train again.'
    )
  config = default_config()
  config.update(values)
  return config


def help_text() -> str:
  """Returns the options of the configuration, one line each, for `--help`."""
  helps = {name: KEYS[name].help + _readers(name) for name in KEYS}
  lines = key.help_lines(
    {name: KEYS[name]._replace(help=text) for name, text in helps.items()}
  )
  for field, (chooser, table) in OPTIONS.items():
    for name, entry in table.items():
      if entry.options:
        lines += ['', f'Options of --config.{chooser}={name}:']
        lines += key.help_lines(entry.options, f'config.{field}')
  return '\n'.join(lines)


def _readers(name: str) -> str:
  """Returns a sentence for `--help` if only some entries read a key."""
  for chooser, table in TABLES.items():
    readers = [entry for entry in table if name in table[entry].reads]
    if 0 < len(readers) < len(table):
      return f' Only with config.{chooser}={", ".join(readers)}.'
  return ''


def unread_keys(config: Mapping[str, Any]) -> dict[str, str]:
  """Returns the keys that a run does not depend on, with the reason.

  A key that entries of tables declare is read if a chosen entry declares it.
  Every run reads the other keys, with three exceptions: another key replaces
  the key, the key needs one that is not set, or the key is for training,
  quantization, learned estimators or a rate that falls in steps, and the run
  has no such part.

  Args:
    config: All keys of a configuration.

  Returns:
    Key to the values that make it unread, such as
    "config.quantizer='dorefa'".
  """
  unread: dict[str, list[str]] = {}
  read = set()
  for table_key, table in TABLES.items():
    chosen = config[table_key]
    # A name that is no longer declared may have read any key.
    entries = [table[chosen]] if chosen in table else table.values()
    read |= {name for entry in entries for name in entry.reads}
    for name in {name for entry in table.values() for name in entry.reads}:
      unread.setdefault(name, []).append(table_key)
  reasons = {name: keys for name, keys in unread.items() if name not in read}
  for name, declaration in KEYS.items():
    if found := _unread_because(declaration, config):
      reasons[name] = [found]
  return {
    name: ' and '.join(f'config.{key}={config[key]!r}' for key in keys)
    for name, keys in reasons.items()
  }


def _unread_because(declaration: Key, config: Mapping[str, Any]) -> str:
  """Returns the key whose value makes another key unread; '' if none does."""
  replaced_by, estimator = declaration.replaced_by, config['estimator']
  if replaced_by and config[replaced_by]:
    return replaced_by
  if declaration.needs and not config[declaration.needs]:
    return declaration.needs
  if (declaration.training or declaration.stepwise) and not config['epochs']:
    return 'epochs'
  method = METHODS.get(config['quantizer'])
  if declaration.stepwise and method and method.cosine:
    return 'quantizer'
  if declaration.stepwise and config['schedule'] == 'cosine':
    return 'schedule'
  if declaration.quantized and config['quantizer'] == 'none':
    return 'quantizer'
  learns = estimator not in ESTIMATORS or ESTIMATORS[estimator].learned
  return 'estimator' if declaration.learned and not learns else ''


def check_effect(config: Mapping[str, Any], names: Iterable[str]) -> None:
  """Refuses keys with another value than the default that a run does not read.

  Args:
    config: All keys of a configuration.
    names: Names of the keys to check.

  Raises:
    ConfigError: If a key has no effect; the message says why.
  """
  unread = unread_keys(config)
  for name in names:
    default = KEYS[name].default
    if name in unread and config[name] != default:
      raise ConfigError(
        f'config.{name}={config[name]!r} has no effect with {unread[name]}:'
        f' leave config.{name} at {default!r}.{_readers(name)}'
      )
