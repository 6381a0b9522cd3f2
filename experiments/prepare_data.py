"""Prepares CIFAR-10 or CIFAR-100 from files on disk, without TensorFlow.

  python -m experiments.prepare_data --source cifar-10-binary.tar.gz

The source is the official binary or python archive (.tar.gz or .tar) or the
folder that it contains. The command writes a set that `tfds.data_source` reads
into --data_dir. If it is stopped at any moment, it leaves no incomplete set.
"""

import argparse
import signal
import sys

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.common.errors import exit_on_user_error
from experiments.data.cifar_archives import Advance
from experiments.data.prepare import prepare


@exit_on_user_error(OSError)
def main(arguments: list[str] | None = None) -> None:
  """Prepares the set, and prints how to use it."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.prepare_data',
    description='Prepares CIFAR-10 or CIFAR-100 from files on disk.',
  )
  parser.add_argument(
    '--source',
    required=True,
    help='cifar-10-binary.tar.gz, cifar-10-python.tar.gz, the same for'
    ' CIFAR-100, or the folder that one of them contains',
  )
  parser.add_argument(
    '--data_dir',
    help='folder of prepared sets; default: $TFDS_DATA_DIR, or else'
    ' ~/tensorflow_datasets',
  )
  options = parser.parse_args(arguments)
  # An exception, unlike the signal, removes the temporary folder.
  signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))
  tfds.disable_progress_bar()
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

      folder = prepare(options.source, options.data_dir, report=report)
  except KeyboardInterrupt:
    print('Stopped. No set was prepared.', file=sys.stderr)
    raise
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


if __name__ == '__main__':
  main()
