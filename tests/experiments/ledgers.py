"""Writes ledgers of invented runs."""

import json

from experiments.configs import resnet20


def record(epoch, accuracy, loss=1.0, test_loss=0.6, **more):
  """Returns the record of one epoch of one trial."""
  return {
    'epoch': epoch,
    'step': 390 * epoch,
    'train_loss': loss,
    'test_loss': test_loss,
    'test_accuracy': accuracy,
    'seconds': 3.0,
    's': 0.5 * epoch,
    'flipped': {'a/kernel': 0.25, 'b/kernel': 0.75},
    'histogram': [1] * 64,
  } | more


def write(
  folder,
  name,
  config,
  accuracies,
  loss_of=lambda accuracy: 1.0,
  test_loss=0.6,
  **header,
):
  """Writes an entry of the ledger.

  Args:
    folder: Folder of the ledger.
    name: Name of the entry.
    config: Changes of the configuration.
    accuracies: One per epoch, or a list of such lists, one per trial.
    loss_of: Training loss of an epoch, by its accuracy.
    test_loss: Test loss of each epoch of each trial.
    **header: More keys of the first line.
  """
  several = bool(accuracies) and isinstance(accuracies[0], list)
  by_trial = accuracies if several else [accuracies]
  run_config = resnet20.get_config().to_dict() | config
  run_config['trials'] = len(by_trial)
  if 'diverged' not in header:
    run_config['epochs'] = len(by_trial[0])
  records = []
  for epoch, values in enumerate(zip(*by_trial, strict=True), start=1):
    accuracy = sum(values) / len(values)
    mean = record(epoch, accuracy, loss_of(accuracy), test_loss)
    if several:
      mean['trials'] = [
        {
          'seed': run_config['seed'] + i,
          **record(epoch, value, loss_of(value), test_loss),
        }
        for i, value in enumerate(values)
      ]
    records.append(mean)
  first = {
    'config': run_config,
    'date': 'today',
    'device': {'kind': 'cpu'},
    'versions': {'jax': '0.10.2'},
    'start': {'base_accuracy': 91.5},
    **header,
  }
  folder.mkdir(parents=True, exist_ok=True)
  lines = (json.dumps(line) for line in (first, *records))
  (folder / f'{name}.jsonl').write_text('\n'.join(lines) + '\n')
