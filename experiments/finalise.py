"""Makes the network for inference of a finished run: integers and norms.

  python -m experiments.finalise --workdir=runs/mine

Kernels of one scale times integers become these integers, and the norms behind
them take the scales. Writes `folded.safetensors` beside the run's own files and
tests every form of the network: what the loss saw where that is not quantized,
the quantized one, the folded one.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments import (
  build,
  data,
  final,
  metrics,
  model_file,
  runtime,
  sharding,
  summary,
)
from experiments.configs import resnet20
from experiments.errors import MissingError, told_plainly
from experiments.evaluation import make_evaluate
from mq_jax import selection
from mq_jax.models import fold_scales, scale_of

MOST_LEVELS = 256  # of 8 bits


def finalise(
  workdir: str | pathlib.Path,
) -> tuple[dict[str, float], dict[str, int]]:
  """Folds the first trial of a finished run, and tests all of its forms.

  Args:
    workdir: Folder of the run, which quantized its weights.

  Returns:
    Test accuracy in percent of 'trained' (where the loss saw no quantized
    weights), 'quantized' and 'folded'; and by the path of each kernel that has
    become integers how many different ones it holds.

  Raises:
    MissingError: If there is no finished run of quantized weights.
  """
  workdir = pathlib.Path(workdir)
  config = _config(workdir)
  path = workdir / final.model_name(config)
  if config.quantizer == 'none' or not path.exists():
    raise MissingError(
      f'{path} is missing: the run has to quantize weights, and to have come to'
      ' its end.'
    )
  model = model_file.load_model(path)
  scales = _scales(model.params, config)
  params, batch_stats = fold_scales(model.params, model.batch_stats, scales)
  evaluate = _evaluation(config)
  accuracies = {
    'quantized': evaluate(model.params, model.batch_stats)[1],
    'folded': evaluate(params, batch_stats)[1],
  }
  trained = workdir / final.model_name(config, kind='trained')
  if trained.exists():
    seen = model_file.load_model(trained)
    accuracies = {
      'trained': evaluate(seen.params, seen.batch_stats)[1]
    } | accuracies
  model_file.save_model(
    path.with_name(path.name.replace('quantized', 'folded')),
    params,
    batch_stats,
    model.metadata | {'accuracy': f'{accuracies["folded"]:.2f}'},
  )
  leaves = selection.named_leaves(params)
  whole = {
    kernel: len(np.unique(leaves[kernel]))
    for kernel in scales
    if np.all(np.asarray(leaves[kernel]) % 1 == 0)
  }
  return accuracies, whole


def _config(workdir: pathlib.Path) -> ConfigDict:
  log = workdir / 'metrics.jsonl'
  if not log.exists():
    raise MissingError(f'{log} is missing: no run stands in {workdir}.')
  config = resnet20.get_config()
  config.update(metrics.read_log(log)[0]['config'])
  return config


def _scales(params: Any, config: ConfigDict) -> dict[str, Any]:
  """Path to scale, of the quantized kernels that have one."""
  leaves = selection.named_leaves(params)
  tables = {
    path: _levels(np.asarray(leaves[path]))
    for path in selection.select(params, build.rules(config, 1))
  }
  return {
    path: scale
    for path, table in tables.items()
    if table is not None and (scale := scale_of(table)) is not None
  }


def _levels(kernel: np.ndarray) -> jax.Array | None:
  """The levels of a kernel: of all of it, or of each channel."""
  levels = jnp.asarray(np.unique(kernel))
  if len(levels) <= MOST_LEVELS and scale_of(levels) is not None:
    return levels
  channels = [np.unique(c) for c in kernel.reshape(-1, kernel.shape[-1]).T]
  most = max(map(len, channels))
  if most > MOST_LEVELS:
    return None
  # A channel with fewer levels has its last one several times.
  table = np.stack([np.pad(c, (0, most - len(c)), 'edge') for c in channels])
  return jnp.asarray(table.reshape((1,) * (kernel.ndim - 1) + table.shape))


def _evaluation(config: ConfigDict) -> Callable[..., tuple[float, float]]:
  dataset = data.load(config.dataset, config.data_dir or None)
  dataset = data.hold_out(dataset, config.holdout)
  net = build.network(config, len(dataset.class_names))
  return make_evaluate(config, dataset, net, sharding.data_mesh(1))


def main(argv: list[str]) -> None:
  """Folds, and shows what it changed."""
  del argv
  runtime.configure()
  with told_plainly():
    accuracies, whole = finalise(flags.FLAGS.workdir)
  names = {
    'trained': 'test accuracy, weights that the loss saw',
    'quantized': 'test accuracy, quantized',
    'folded': 'test accuracy, scales folded',
  }
  summary.final_table(
    {names[kind]: f'{value:.2f}%' for kind, value in accuracies.items()}
    | {path: f'{count} integers' for path, count in whole.items()}
  )


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  app.run(main)
