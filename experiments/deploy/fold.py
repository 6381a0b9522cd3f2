"""Makes the network for inference of a finished run: integers and norms.

  python -m experiments.deploy.fold --workdir=runs/mine

Kernels of one scale times integers become these integers, and the norms behind
them take the scales. Writes `folded.safetensors` beside the run's own files and
tests every form of the network: what the loss saw where that is not quantized,
the quantized one, the folded one.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments.build import train_step
from experiments.common import console, runtime, sharding
from experiments.common.errors import exit_on_user_error
from experiments.records import final, finished, model_file
from experiments.training.evaluation import make_evaluate
from mq_jax import selection
from mq_jax.models import fold_scales


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
  config, _, path = finished.read(workdir)
  model = model_file.load_model(path)
  scales = finished.scales(model, config)
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


def _evaluation(config: ConfigDict) -> Callable[..., tuple[float, float]]:
  dataset = finished.tested_on(config)
  net = train_step.network(config, len(dataset.class_names))
  return make_evaluate(config, dataset, net, sharding.data_mesh(1))


def main(argv: list[str]) -> None:
  """Folds, and shows what it changed."""
  del argv
  runtime.configure()
  with exit_on_user_error():
    accuracies, whole = finalise(flags.FLAGS.workdir)
  names = {
    'trained': 'test accuracy, weights that the loss saw',
    'quantized': 'test accuracy, quantized',
    'folded': 'test accuracy, scales folded',
  }
  console.final_table(
    {names[kind]: f'{value:.2f}%' for kind, value in accuracies.items()}
    | {path: f'{count} integers' for path, count in whole.items()}
  )


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  app.run(main)
