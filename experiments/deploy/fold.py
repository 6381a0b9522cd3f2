"""Makes the inference network of a complete run, with kernels of integers.

  python -m experiments.deploy.fold --workdir=runs/mine

Kernels that are a scale times integers become these integers, and the norms
after them take the scales. Writes `folded.safetensors` to the folder of the run
and tests every form of the network: the weights that the loss saw if these are
not quantized, the quantized weights, and the folded ones.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments.build import losses
from experiments.build.networks import make_network
from experiments.common import console, runtime
from experiments.common.errors import exit_on_user_error
from experiments.deploy.kernels import fold_kernels
from experiments.records import model_file
from experiments.records import workdir as run_folder
from experiments.training.evaluation import make_evaluate
from experiments.training.train import make_pipeline
from mq_jax import selection


def fold_run(
  workdir: str | pathlib.Path,
) -> tuple[dict[str, float], dict[str, int]]:
  """Folds the first trial of a complete run, and tests all of its forms.

  Args:
    workdir: Folder of a run that quantizes weights.

  Returns:
    Test accuracy in percent of 'trained' (if the loss saw other weights than
    the quantized ones), 'quantized' and 'folded', and the number of different
    integers in each kernel that holds integers, by path.

  Raises:
    MissingError: If there is no complete run of quantized weights.
  """
  config, _, path = run_folder.read_quantized_run(workdir)
  model = model_file.load_model(path)
  folded, paths = fold_kernels(model, config)
  forms = {'quantized': model, 'folded': folded}
  trained_path = run_folder.model_path(workdir, config, kind='trained')
  if trained_path.exists():
    forms = {'trained': model_file.load_model(trained_path)} | forms
  config.mesh_data = 1
  pipeline = make_pipeline(config)
  net = make_network(config, len(pipeline.classes))
  evaluate = make_evaluate(pipeline.evaluate, net, losses.LOSSES[config.loss])
  accuracies = {
    name: evaluate(form.params, form.batch_stats)['accuracy']
    for name, form in forms.items()
  }
  model_file.save_model(
    run_folder.model_path(workdir, config, kind='folded'),
    folded.params,
    folded.batch_stats,
    model.metadata
    | {
      'accuracy': f'{accuracies["folded"]:.2f}',
      model_file.SCALES: model_file.FOLDED,
    },
  )
  leaves = selection.named_leaves(folded.params)
  kernels = {name: np.asarray(leaves[name]) for name in paths}
  return accuracies, {
    name: len(np.unique(kernel))
    for name, kernel in kernels.items()
    if np.all(kernel % 1 == 0)
  }


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Folds the network and shows accuracies and integers."""
  runtime.configure()
  accuracies, integers = fold_run(flags.FLAGS.workdir)
  names = {
    'trained': 'test accuracy, weights that the loss saw',
    'quantized': 'test accuracy, quantized',
    'folded': 'test accuracy, scales folded',
  }
  console.final_table(
    {names[form]: f'{value:.2f}%' for form, value in accuracies.items()}
    | {path: f'{count} integers' for path, count in integers.items()}
  )


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
  app.run(main)
