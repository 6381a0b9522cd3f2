"""Estimates the GPU hours that a study still needs, from measured steps.

`benchmarks.step_time` measures one step of one trial on a GPU: forward pass,
backward pass and update, with dorefa at 1 bit in every layer under SGD. The
loading of data and the tests are not included, nor are base models.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.common.console import counted
from experiments.data import cifar_archives, imagenet_layout
from experiments.data.batches import steps_per_epoch
from experiments.data.datasets import DATASETS

BENCHMARKS = pathlib.Path(__file__).parents[2] / 'results' / 'benchmarks'
_FILES = 'gpu-step_time*.json'
_TRAIN_IMAGES = {
  'cifar10': cifar_archives.OFFICIAL.train,
  'cifar100': cifar_archives.OFFICIAL.train,
  'imagenet': imagenet_layout.OFFICIAL.train,
}
_CIFAR_SIDE = 32
_MS_PER_HOUR = 3_600_000
# Other methods do other work in a step.
_QUANTIZERS = ('dorefa', 'bwn')
# Keys that change the work of a step, and their values in the benchmark.
_MEASURED_WITH = {
  'activation_quantizer': 'relu',
  'accumulate': 1,
  'distill': 0.0,
  'group_size': 0,
  'mesh_data': 1,
  'width': 1.0,
  'per_channel': False,
  'per_layer': False,
}


class Measured(NamedTuple):
  """A measured step.

  Attributes:
    network: Name of the network.
    image_size: Both sides of the images.
    batch_size: Number of images.
    hidden: Hidden size of the estimator.
    backward: Name of the estimator in the benchmark.
    dtype: Type that layers compute in.
    ms: Milliseconds per step.
    device: Name of the GPU.
  """

  network: str
  image_size: int
  batch_size: int
  hidden: int
  backward: str
  dtype: str
  ms: float
  device: str


class Cost(NamedTuple):
  """The estimated cost of runs.

  Attributes:
    hours: GPU hours.
    dtype: Type in which the steps were measured.
    device: Name of the GPU.
    is_other_dtype: True if the runs compute in another type.
  """

  hours: float
  dtype: str
  device: str
  is_other_dtype: bool


def read(folder: pathlib.Path = BENCHMARKS) -> list[Measured]:
  """Reads the steps that were measured on GPUs; the list may be empty."""
  found = []
  for path in sorted(folder.glob(_FILES)):
    report = json.loads(path.read_text(encoding='utf-8'))
    config = report['config']
    for row in report['rows']:
      found.append(
        Measured(
          config['network'],
          config.get('image_size', _CIFAR_SIDE),
          config['batch_size'],
          config['hidden'],
          row['backward'],
          config['dtype'],
          row['ms'],
          report['device']['kind'],
        )
      )
  return found


def of_epochs(
  config: ConfigDict, epochs: int, measured: Sequence[Measured]
) -> Cost | None:
  """Returns the cost of some epochs of all trials of a run.

  Args:
    config: Configuration of the run.
    epochs: Number of epochs.
    measured: Result of `read`.

  Returns:
    The cost, with steps measured in the type of the run if there are any, and
    otherwise in another type; the fastest if there are several. None if no such
    step was measured, or the number of training images is not known.
  """
  images = _TRAIN_IMAGES.get(config.dataset)
  backward = _backward(config)
  if images is None or backward is None:
    return None
  side = DATASETS[config.dataset].input_spec(config).shape[0]
  wanted = (config.network, side, config.batch_size, config.hidden, backward)
  matching = [step for step in measured if step[:5] == wanted]
  if not matching:
    return None
  step = min(matching, key=lambda s: (s.dtype != config.dtype, s.ms))
  steps = steps_per_epoch(images - config.holdout, config.batch_size)
  steps = min(steps, config.epoch_steps or steps)
  ms = step.ms * steps * epochs * config.trials
  return Cost(
    ms / _MS_PER_HOUR, step.dtype, step.device, step.dtype != config.dtype
  )


def _backward(config: ConfigDict) -> str | None:
  """Returns the benchmark's name of an estimator; None if it has none."""
  if config.quantizer not in _QUANTIZERS or config.float_layers:
    return None
  if any(config[key] != value for key, value in _MEASURED_WITH.items()):
    return None
  slim = ', slim' * config.slim
  match config.estimator:
    case 'ste':
      return 'ste'
    # The stack of FCGrad reduces to one factor, whatever its layers are.
    case 'fc_grad' if config.estimator_activation is None:
      return 'fc_grad' + slim
    case 'multi_fc':
      layers = {2: '', 3: ', 3 layers'}.get(config.layers)
      activation = config.estimator_activation
      if layers is None:
        return None
      return f'multi_fc{layers}' + f', {activation}' * bool(activation) + slim
    case 'lstm_fc':
      memory, points = config.memory_dtype, config.grid_points
      narrow = f', {memory} memory' * (memory != 'float32')
      return 'lstm_fc' + narrow + f', {points} points' * (points > 0) + slim
  return None


def describe(costs: Sequence[Cost | None]) -> str:
  """Returns the cost of the runs of one setting; '' if it is not known.

  Steps that were measured in another type than the runs compute in are marked.
  """
  known = [cost for cost in costs if cost]
  if not known or len(known) < len(costs):
    return ''
  marks = {cost.dtype for cost in known if cost.is_other_dtype}
  return _hours(known) + f' in {", ".join(sorted(marks))}' * bool(marks)


def note(known: Sequence[Cost], runs: int) -> str:
  """Returns the line below the list of a study.

  Args:
    known: Costs of the runs whose cost is known.
    runs: Number of all runs that are left.
  """
  devices = ', '.join(sorted({cost.device for cost in known}))
  text = (
    f'{_hours(known)} GPU hours are left for {len(known)} of'
    f' {counted(runs, "run")}, from measured steps on {devices}. They do not'
    ' include the loading of data, tests and base models.'
  )
  if len(known) < runs:
    text += ' No such step was measured for the other runs.'
  if any(cost.is_other_dtype for cost in known):
    text += (
      ' "in bfloat16" and the like mark steps that were measured in another'
      ' type than that of the runs.'
    )
  return text


def _hours(known: Sequence[Cost]) -> str:
  hours = sum(cost.hours for cost in known)
  if 0 < hours < 0.01:
    return '< 0.01'
  return f'{hours:.2f}' if hours < 1 else f'{hours:.1f}'
