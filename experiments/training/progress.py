"""Shows the progress of a run while it trains.

On a terminal, rich draws a bar, and the lines of past epochs stay above it. A
file, a pipe or a notebook gets plain lines instead. No other code reads this
output: the numbers of record are in metrics.jsonl.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from experiments.common.console import print_line

LINE_PERIOD = 30.0  # Seconds between plain lines within an epoch.
# Seconds over which rich averages the speed. A slow network on CPU takes
# minutes from one update to the next, and rich needs two updates.
SPEED_PERIOD = 600.0
_SHORTEST_BAR = 10  # A shorter bar is left out.
# The parts of a line in their order, and which of them a narrow terminal keeps:
# those with the lowest numbers.
_KEPT = {
  'label': 0,
  'bar': 4,
  'step': 7,
  'loss': 1,
  'test_loss': 5,
  'accuracy': 2,
  'speed': 6,
  'left': 3,
  'device': 8,
}
_PAST = ('label', 'loss', 'test_loss', 'accuracy')


class Bar(NamedTuple):
  """The functions that write to a running display.

  Attributes:
    update: `(step, *, epoch, loss)`; `step` counts from the beginning of
      training, `loss` is the mean of this epoch so far.
    end_epoch: `(*, epoch, test_loss, accuracy)`, after the test of an epoch;
      `accuracy` is in percent.
    log: `(text)`, prints a line above the bar.
  """

  update: Callable[..., None]
  end_epoch: Callable[..., None]
  log: Callable[[str], None]


def open_live(
  console: Console, clock: Callable[[], float] = time.monotonic
) -> Progress:
  """Returns the display of all bars, disabled where there is no terminal.

  A disabled display draws nothing and still measures the speed of its tasks.

  Args:
    console: Where to draw.
    clock: Returns the time in seconds.
  """
  return Progress(
    _LineColumn(Column(ratio=1)),
    console=console,
    expand=True,
    refresh_per_second=4,
    speed_estimate_period=SPEED_PERIOD,
    get_time=clock,
    # With FORCE_COLOR rich takes a file for interactive.
    disable=not (console.is_interactive and console.file.isatty()),
  )


@contextlib.contextmanager
def progress_bar(
  total_steps: int,
  start_step: int = 0,
  description: str = '',
  *,
  epochs: int,
  waiting: str = '',
  device: str = '',
  live: Progress | None = None,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
  """Shows the progress of training while the context lasts.

  Without a terminal it prints a line after the first chunk of steps, one per
  epoch, and one per `LINE_PERIOD` within an epoch.

  Args:
    total_steps: Step at which training ends.
    start_step: Step at which training starts, above 0 in a resumed run.
    description: Text that is printed once, above the bar.
    epochs: Number of epochs.
    waiting: What happens until the first step is done.
    device: Name of the device.
    live: Display from `open_live`, which draws the bar beside others. At the
      end a line replaces the bar. By default, a display of this bar alone.
    clock: Returns the time in seconds, for a display of this bar alone.

  Yields:
    The `Bar`.
  """
  is_shared = live is not None
  live = live or open_live(Console(), clock)
  console, per_epoch = live.console, total_steps // max(epochs, 1)
  if description:
    print_line(console, description)
  if waiting and live.disable:
    print_line(console, waiting)
  with contextlib.nullcontext() if is_shared else live:
    task_id = live.add_task(
      waiting,
      total=total_steps,
      completed=start_step,
      is_waiting=True,
      loss='loss -',
      test_loss='',
      accuracy='acc -',
      device=device,
    )
    task = live.tasks[-1]
    is_pending, printed_at = False, -LINE_PERIOD

    def flush() -> None:
      nonlocal is_pending, printed_at
      if is_pending and live.disable:
        print_line(console, _plain_line(task))
        printed_at = live.get_time()
      is_pending = False

    def update(step: int, *, epoch: int, loss: float) -> None:
      nonlocal is_pending
      # The line of a complete epoch contains its test.
      is_tested = step % per_epoch == 0
      live.update(
        task_id,
        completed=step,
        description=f'{"test" if is_tested else "epoch"} {epoch}/{epochs}',
        is_waiting=False,
        loss=f'loss {loss:#.4g}',
      )
      is_pending = True
      if not is_tested and live.get_time() - printed_at >= LINE_PERIOD:
        flush()

    def end_epoch(*, epoch: int, test_loss: float, accuracy: float) -> None:
      nonlocal is_pending
      live.update(
        task_id,
        description=f'epoch {epoch}/{epochs}',
        is_waiting=False,
        test_loss=f'test loss {test_loss:#.4g}',
        accuracy=f'acc {accuracy:.2f}%',
      )
      is_pending = True
      if live.disable:
        flush()
      elif not is_shared:
        print_line(console, _past_line(task, console.width))

    try:
      yield Bar(update, end_epoch, lambda text: print_line(console, text))
    finally:
      flush()
      if is_shared:
        live.remove_task(task_id)
        if not live.disable and not task.fields['is_waiting']:
          print_line(console, _past_line(task, console.width))


@contextlib.contextmanager
def hidden_bar(*args: object, **kwargs: object) -> Iterator[Bar]:
  """Replaces `progress_bar` and shows nothing."""
  del args, kwargs

  def nothing(*args: object, **kwargs: object) -> None:
    del args, kwargs

  yield Bar(nothing, nothing, nothing)


class _LineColumn(ProgressColumn):
  """Shows a task in one line that leaves out what has no room."""

  def render(self, task: Task) -> '_Line':
    """Returns the line of a task."""
    return _Line(task)


class _Line(NamedTuple):
  task: Task

  def __rich_measure__(
    self, console: Console, options: ConsoleOptions
  ) -> Measurement:
    """Asks for the whole width."""
    del console
    return Measurement(1, options.max_width)

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> RenderResult:
    """Renders the parts that fit; the bar takes the room that is left."""
    del console
    task, width = self.task, options.max_width
    texts = _texts(task) | {'bar': ' ' * _SHORTEST_BAR}
    kept = _fitting(texts, width)
    room = width - len(' '.join(kept.values())) + _SHORTEST_BAR
    bar = ProgressBar(
      total=max(1, task.total or 1),
      completed=task.completed,
      width=room,
      pulse=task.fields['is_waiting'],
      animation_time=task.get_time(),
    )
    grid = Table.grid(padding=(0, 1), pad_edge=False)
    for _ in kept:
      grid.add_column(no_wrap=True)
    grid.add_row(
      *(bar if name == 'bar' else Text(text) for name, text in kept.items())
    )
    yield grid


def _texts(task: Task) -> dict[str, str]:
  """Returns the text of each part of a line, in their order."""
  fields = task.fields
  if fields['is_waiting']:
    elapsed = f'{task.elapsed or 0:.0f} s'
    return {
      'label': task.description,
      'left': elapsed,
      'device': fields['device'],
    }
  left = TimeRemainingColumn().render(task).plain
  texts = {'label': task.description, 'left': f'{left} left'}
  if 'loss' in fields:
    number = f'{task.speed or 0:.0f}'
    if (task.speed or 0) < 100:
      number = f'{task.speed:.3g}' if task.speed else '-'
    texts |= {
      'step': f'step {task.completed:.0f}/{task.total:.0f}',
      'speed': f'{number} steps/s',
      **{name: fields[name] for name in ('loss', 'test_loss', 'accuracy')},
      'device': fields['device'],
    }
  return texts


def _fitting(texts: dict[str, str], width: int) -> dict[str, str]:
  """Returns the texts that fit into a line, in their order."""
  chosen: set[str] = set()
  room = width
  for name in sorted(filter(texts.get, texts), key=_KEPT.__getitem__):
    if chosen and len(texts[name]) >= room:
      break
    chosen.add(name)
    room -= len(texts[name]) + bool(room < width)
  return {name: texts[name] for name in _KEPT if name in chosen}


def _plain_line(task: Task) -> str:
  texts = _texts(task)
  order = ('label', 'step', 'loss', 'test_loss', 'accuracy', 'speed', 'left')
  return '  '.join(texts[name] for name in order if texts[name])


def _past_line(task: Task, width: int) -> str:
  texts = _texts(task)
  return ' '.join(
    _fitting({name: texts[name] for name in _PAST}, width).values()
  )
