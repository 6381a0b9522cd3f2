"""What a person sees of a run: a bar while it trains, a table at its end.

On a terminal the bar is drawn by rich; into a file, a pipe or a notebook go
plain lines instead. Nothing is read back from here: the numbers of record are
in metrics.jsonl.
"""

import collections
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import rich.console
import rich.progress
import rich.table
import rich.text

RECENT = 30.0  # Seconds that steps/s is taken over, and between plain lines.


class Bar(NamedTuple):
  """A running display.

  Attributes:
    update: `(step, *, epoch, loss=None, accuracy=None)`; `step` counts from the
      beginning of training, `accuracy` is in percent. What is None stays as it
      was shown last.
    log: `(text)`, prints a line above the bar.
  """

  update: Callable[..., None]
  log: Callable[[str], None]


class _Shown(NamedTuple):
  """The numbers on display, as text."""

  epoch: str = 'epoch -'
  loss: str = 'loss -'
  accuracy: str = 'acc -'
  rate: str = '- steps/s'
  left: str = '-:--:-- left'


@contextlib.contextmanager
def progress(
  total_steps: int,
  start_step: int = 0,
  description: str = '',
  *,
  epochs: int | None = None,
  console: rich.console.Console | None = None,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
  """Shows how far training is, for as long as the context lasts.

  Without a terminal it prints a line where an epoch ends (its accuracy has
  come, or the next epoch begins), and one in `RECENT` seconds within an epoch.

  Args:
    total_steps: the step at which training ends.
    start_step: the step it starts from, above 0 in a resumed run.
    description: printed once, as a line above the bar.
    epochs: the number of epochs, to be shown beside the epoch.
    console: where to print; standard output by default.
    clock: gives the time in seconds.

  Yields:
    The `Bar`.
  """
  console = console or rich.console.Console()

  def log(text: str) -> None:
    line = rich.text.Text(text)
    console.print(line, soft_wrap=True, highlight=False)

  if description:
    log(description)
  rate = _recent_rate(clock)
  open_view = _bar if _is_live(console) else _lines
  with open_view(console, log, total_steps, start_step, clock) as show:
    shown = _Shown()

    def update(
      step: int,
      *,
      epoch: int,
      loss: float | None = None,
      accuracy: float | None = None,
    ) -> None:
      nonlocal shown
      speed = rate(step)
      of = '' if epochs is None else f'/{epochs}'
      shown = _Shown(
        f'epoch {epoch}{of}',
        shown.loss if loss is None else f'loss {loss:#.4g}',
        shown.accuracy if accuracy is None else f'acc {accuracy:.2f}%',
        _speed_text(speed),
        _left_text(total_steps - step, speed),
      )
      show(step, shown)

    yield Bar(update, log)


def final_table(
  rows: Mapping[str, str],
  title: str = '',
  console: rich.console.Console | None = None,
) -> None:
  """Prints rows of a name and a value as a table.

  A value too long for the console, such as a path, goes below the table in one
  piece, so that it can be copied.

  Args:
    rows: name -> value.
    title: above the table.
    console: where to print; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(title=title or None, show_header=False)
  table.add_column(no_wrap=True)
  table.add_column(no_wrap=True, justify='right')
  widest = max(len(name) for name in rows)
  borders = 7
  room = console.width - widest - borders
  below = {k: v for k, v in rows.items() if len(v) > room}
  for name, value in rows.items():
    if name not in below:
      table.add_row(name, rich.text.Text(value))
  console.print(table)
  for name, value in below.items():
    line = rich.text.Text(f'{name}: {value}')
    console.print(line, soft_wrap=True, highlight=False)


def print_summary(
  full_precision_accuracy: float,
  last_accuracy: float,
  best_accuracy: float,
  seconds_per_epoch: float,
  model_path: str | os.PathLike[str],
  *,
  last_epochs: int = 10,
  trial_accuracies: Sequence[float] = (),
  console: rich.console.Console | None = None,
) -> None:
  """Prints what a finished run has to show.

  Args:
    full_precision_accuracy: of the base model, percent.
    last_accuracy: mean test accuracy of the last epochs, percent.
    best_accuracy: best test accuracy of an epoch, percent.
    seconds_per_epoch: mean over the epochs.
    model_path: the file with the quantized parameters.
    last_epochs: how many epochs `last_accuracy` is the mean of.
    trial_accuracies: of each trial, percent; shown where there are several.
    console: where to print; standard output by default.
  """
  epochs = 'epoch' if last_epochs == 1 else f'{last_epochs} epochs'
  rows = {
    'full-precision test accuracy': f'{full_precision_accuracy:.2f}%',
    f'test accuracy, mean of the last {epochs}': f'{last_accuracy:.2f}%',
    **_trial_rows(trial_accuracies),
    'test accuracy, best epoch': f'{best_accuracy:.2f}%',
    'seconds per epoch': f'{seconds_per_epoch:#.3g}',
    'quantized parameters': os.fspath(model_path),
  }
  final_table(rows, console=console)


def _trial_rows(accuracies: Sequence[float]) -> dict[str, str]:
  if len(accuracies) < 2:
    return {}
  return {
    f'its deviation over {len(accuracies)} trials': (
      f'{statistics.stdev(accuracies):.2f}%'
    ),
    'the trials': ', '.join(f'{a:.2f}%' for a in accuracies),
  }


def _is_live(console: rich.console.Console) -> bool:
  """Whether a bar can be drawn; FORCE_COLOR alone makes no terminal."""
  return console.is_interactive and console.file.isatty()


@contextlib.contextmanager
def _bar(
  console: rich.console.Console,
  log: Callable[[str], None],
  total_steps: int,
  start_step: int,
  clock: Callable[[], float],
) -> Iterator[Callable[[int, _Shown], None]]:
  """A bar over the whole width, as long as the texts beside it leave room."""
  del log, clock
  texts = [
    rich.progress.TextColumn(
      f'{{task.fields[{name}]}}',
      table_column=rich.table.Column(no_wrap=True),
    )
    for name in _Shown._fields
  ]
  bar = rich.progress.BarColumn(
    bar_width=None, table_column=rich.table.Column(ratio=1)
  )
  with rich.progress.Progress(
    texts[0],
    bar,
    *texts[1:],
    console=console,
    expand=True,
    refresh_per_second=4,
  ) as live:
    task = live.add_task(
      '', total=total_steps, completed=start_step, **_Shown()._asdict()
    )
    yield lambda step, shown: live.update(
      task, completed=step, **shown._asdict()
    )
    live.refresh()


@contextlib.contextmanager
def _lines(
  console: rich.console.Console,
  log: Callable[[str], None],
  total_steps: int,
  start_step: int,
  clock: Callable[[], float],
) -> Iterator[Callable[[int, _Shown], None]]:
  """A line an epoch, and one now and then in a long epoch."""
  del console, start_step
  pending: tuple[int, _Shown] | None = None
  last = _Shown()
  printed_at = clock()

  def flush() -> None:
    nonlocal pending, printed_at
    if pending is not None:
      step, shown = pending
      log('  '.join([shown.epoch, f'step {step}/{total_steps}', *shown[1:]]))
      printed_at = clock()
    pending = None

  def show(step: int, shown: _Shown) -> None:
    nonlocal pending, last
    if shown.epoch != last.epoch:
      flush()
    pending = step, shown
    if shown.accuracy != last.accuracy or clock() - printed_at >= RECENT:
      flush()
    last = shown

  try:
    yield show
  finally:
    flush()


def _recent_rate(
  clock: Callable[[], float],
) -> Callable[[int], float | None]:
  """Steps per second over the last `RECENT` seconds, or the last two updates.

  It starts with the first update, so the compilation before that does not
  count, nor do the steps before a resumed run.
  """
  samples: collections.deque[tuple[float, int]] = collections.deque()

  def rate(step: int) -> float | None:
    # An update of the same step, after a test, says nothing about its speed.
    if not samples or step != samples[-1][1]:
      samples.append((clock(), step))
    now = samples[-1][0]
    # An update older than that is needed where updates are rare.
    while len(samples) > 1 and samples[1][0] <= now - RECENT:
      samples.popleft()
    then, before = samples[0]
    return (step - before) / (now - then) if now > then else None

  return rate


def _speed_text(speed: float | None) -> str:
  if speed is None:
    return '- steps/s'
  return f'{speed:.0f} steps/s' if speed >= 100 else f'{speed:.3g} steps/s'


def _left_text(steps: int, speed: float | None) -> str:
  if not speed or speed < 0:
    return '-:--:-- left'
  seconds = round(max(steps, 0) / speed)
  hours, minutes = divmod(seconds // 60, 60)
  return f'{hours}:{minutes:02}:{seconds % 60:02} left'
