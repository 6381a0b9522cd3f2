"""Prepares data sets from files on disk, without TensorFlow.

  python -m experiments.prepare_data --source cifar-10-binary.tar.gz
  python -m experiments.prepare_data --dataset folder --source DIR
  python -m experiments.prepare_data --dataset imagenet --source DIR

With --dataset folder, DIR contains photographs as train/CLASS/* and
val/CLASS/*. They stay there: the command decodes each of them once, names the
damaged ones, and writes an index. With --dataset imagenet, DIR contains the
same for ImageNet, or its archives, which are written as a set into --data_dir.

Without --dataset, the source is the official binary or python archive of
CIFAR-10 or CIFAR-100 (.tar.gz or .tar) or the folder that it contains. The
command writes a set that `tfds.data_source` reads into --data_dir. If it is
stopped at any moment, it leaves no incomplete set.
"""

import argparse
import shlex
import signal
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.common.errors import exit_on_user_error
from experiments.data import prepare_photos
from experiments.data.photo_index import Advance, Report


@exit_on_user_error(OSError)
def main(arguments: list[str] | None = None) -> None:
  """Prepares the set, and prints how to use it."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.prepare_data',
    description='Prepares data sets from files on disk.',
  )
  parser.add_argument(
    '--dataset',
    choices=prepare_photos.DATASETS,
    help='kind of photographs; default: CIFAR-10 or CIFAR-100',
  )
  parser.add_argument(
    '--source',
    required=True,
    help='cifar-10-binary.tar.gz, cifar-10-python.tar.gz, the same for'
    ' CIFAR-100, or the folder that one of them contains; with --dataset, a'
    ' folder with train/CLASS/* and val/CLASS/*, or one with the archives of'
    ' ImageNet',
  )
  parser.add_argument(
    '--data_dir',
    help='folder of prepared sets; default: $TFDS_DATA_DIR, or else'
    ' ~/tensorflow_datasets',
  )
  parser.add_argument(
    '--skip_damaged',
    action='store_true',
    help='leave out photographs that cannot be decoded',
  )
  options = parser.parse_args(arguments)
  if options.skip_damaged and not options.dataset:
    parser.error('--skip_damaged is for photographs: give --dataset.')
  # An exception, unlike the signal, removes the temporary folder.
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
  # `prepare` redirects standard output, but not the progress bar.
  console = Console(file=sys.stdout)
  columns = (
    TextColumn('{task.description:24}'),
    BarColumn(),
    TextColumn('{task.completed:.0f}/{task.total:.0f}'),
    TimeRemainingColumn(),
  )
  try:
    with Progress(*columns, console=console) as progress:

      def report(text: str, total: int) -> Advance:
        task = progress.add_task(text, total=total)
        return lambda n: progress.advance(task, n)

      if options.dataset:
        text = _prepare_photos(options, report)
      else:
        text = _prepare_cifar(options, report)
  except KeyboardInterrupt:
    print('Stopped. No set was prepared.', file=sys.stderr)
    raise
  console.print(text, soft_wrap=True, highlight=False)


def _prepare_photos(options: argparse.Namespace, report: Report) -> str:
  """Prepares photographs; returns how to use them."""
  prepared = prepare_photos.prepare(
    options.dataset,
    options.source,
    options.data_dir,
    skip_damaged=options.skip_damaged,
    report=report,
  )
  listing = ''.join(f'  {escape(line)}\n' for line in prepared.lines)
  command = train_command(options.dataset, prepared)
  text = (
    f'[bold]{escape(str(prepared.data_dir))}[/] is ready.\n{listing}\n'
    f'Train with it:\n  {escape(command)}'
  )
  if options.dataset != 'folder':
    return text
  return (
    f'{text}\n'
    'It first trains a base model from random weights. If you have few'
    ' photographs, start from weights of ImageNet: add'
    ' --config.pretrained=FILE --config.new_head=True'
    ' (docs/your_photographs.md).'
  )


def train_command(dataset: str, prepared: prepare_photos.Prepared) -> str:
  """Returns a command that trains on photographs, also on few of them."""
  # The import is slow.
  from experiments.build.schema import KEYS

  options = [
    f'--config.dataset={dataset}',
    f'--config.data_dir={shlex.quote(str(prepared.data_dir))}',
  ]
  train = prepared.train
  if not prepared.test:
    holdout = max(1, train // 5)
    train -= holdout
    options.append(f'--config.holdout={holdout}')
  if train < KEYS['batch_size'].default:
    # At least two steps per epoch, if there are two photographs.
    size = 2 ** (max(1, train // 2).bit_length() - 1)
    options.append(f'--config.batch_size={size}')
  return ' '.join(['python -m experiments.imagenet', *options])


def _prepare_cifar(options: argparse.Namespace, report: Report) -> str:
  """Prepares a CIFAR set; returns how to use it."""
  # Photographs do not need this import, which takes seconds.
  import tensorflow_datasets as tfds

  from experiments.data.prepare import prepare

  tfds.disable_progress_bar()
  folder = prepare(options.source, options.data_dir, report=report)
  root, name = folder.parent.parent, folder.parent.name
  return (
    f'[bold]{name}[/] is ready in {folder}\n\n'
    'Train with it:\n'
    f'  python -m experiments.cifar --config.dataset={name}'
    f' --config.data_dir={root}\n'
    'or read it:\n'
    f"  tfds.data_source('{name}', split='train', data_dir='{root}',"
    ' download=False)'
  )


if __name__ == '__main__':
  main()
