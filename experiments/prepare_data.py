"""Prepares CIFAR-10 or CIFAR-100 from files on disk, without TensorFlow.

  python -m experiments.prepare_data --source cifar-10-binary.tar.gz

The source is what people have: the official binary or python archive (.tar.gz
or .tar), the folder inside of it, or folders of PNG files, train/CLASS/*.png
and test/CLASS/*.png. Which of the two sets it is shows in the files. The
result is a set that `tfds.data_source` reads, under --data_dir.

The source is read and checked whole before anything is written. The set is
written beside its place, read back, compared with the source, and only then
moved to its place, so a preparation that is stopped at any moment leaves
nothing that could be taken for a set.
"""

import argparse
import signal
import sys

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.data.cifar_archives import Advance, SourceError
from experiments.data.prepare import prepare


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.prepare_data',
    description='Prepares CIFAR-10 or CIFAR-100 from files on disk.',
  )
  parser.add_argument(
    '--source',
    required=True,
    help='cifar-10-binary.tar.gz, cifar-10-python.tar.gz, the same of'
    ' CIFAR-100, the folder inside of one of them, or a folder with'
    ' train/CLASS/*.png and test/CLASS/*.png',
  )
  parser.add_argument(
    '--data_dir',
    help='where prepared sets lie; default $TFDS_DATA_DIR, then'
    ' ~/tensorflow_datasets',
  )
  options = parser.parse_args(arguments)
  # So that what is half-written is removed as it is after Ctrl-C.
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
  tfds.disable_progress_bar()
  # The stream is given, because another stands in for it while writing.
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

      folder = prepare(options.source, options.data_dir, report=report)
  except (SourceError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('Stopped; nothing was prepared.', file=sys.stderr)
    return 130
  root, name = folder.parent.parent, folder.parent.name
  console.print(
    f'[bold]{name}[/] is ready in {folder}\n\n'
    'Train with it:\n'
    f'  python -m experiments.cifar --config.dataset={name}'
    f' --config.data_dir={root}\n'
    'or read it:\n'
    f"  tfds.data_source('{name}', split='train', data_dir='{root}',"
    ' download=False)',
    soft_wrap=True,
    highlight=False,
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
