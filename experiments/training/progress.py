"""Shows the progress of a run while it trains.

On a terminal, rich draws a bar. A file, a pipe or a notebook gets plain lines
instead. No other code reads this output: the numbers of record are in
metrics.jsonl.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import (
  BarColumn,
  Progress,
  ProgressColumn,
  Task,
  TextColumn,
  TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from experiments.common.console import print_line

LINE_PERIOD = 30.0  # Seconds between plain lines within an epoch.
# Seconds over which rich averages the speed. A slow network on CPU takes
# minutes from one update to the next, and rich needs two updates.
SPEED_PERIOD = 600.0


class Bar(NamedTuple):
  """The functions that write to a running display.

  Attributes:
    update: `(step, *, epoch, loss=None, accuracy=None)`; `step` counts from the
      beginning of training, `accuracy` is in percent. A value of None leaves
      the displayed number as it is.
    log: `(text)`, prints a line above the bar.
  """

  update: Callable[..., None]
  log: Callable[[str], None]


class SpeedColumn(ProgressColumn):
  """Shows the speed of a task in `task.fields['unit']`; blank if that is ''."""

  def render(self, task: Task) -> Text:
    """Returns the speed and its unit."""
    unit, speed = task.fields['unit'], task.speed
    number = f'{speed:.0f}' if (speed or 0) >= 100 else f'{speed or 0:.3g}'
    return Text(f'{number if speed else "-"} {unit}' if unit else '')


def open_live(
  console: Console, clock: Callable[[], float] = time.monotonic
) -> Progress:
  """Returns the display of all bars, disabled where there is no terminal.

  A disabled display draws nothing and still measures the speed of its tasks.
  Each task needs the fields loss, accuracy and unit.

  Args:
    console: Where to draw.
    clock: Returns the time in seconds.
  """
  fixed = Column(no_wrap=True)
  return Progress(
    TextColumn('{task.description}'),
    BarColumn(None, table_column=Column(ratio=1)),
    TextColumn('{task.fields[loss]}'),
    TextColumn('{task.fields[accuracy]}'),
    SpeedColumn(fixed),
    TimeRemainingColumn(table_column=fixed),
    'left',
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
  epochs: int | None = None,
  live: Progress | None = None,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
  """Shows the progress of training while the context lasts.

  Without a terminal it prints a line when an epoch ends (the accuracy changes,
  or the next epoch begins), and one per `LINE_PERIOD` within an epoch.

  Args:
    total_steps: Step at which training ends.
    start_step: Step at which training starts, above 0 in a resumed run.
    description: Text that is printed once, as a line above the bar.
    epochs: Number of epochs, shown beside the epoch.
    live: Display from `open_live`, which draws the bar beside others. At the
      end a line replaces the bar. By default, a display of this bar alone.
    clock: Returns the time in seconds, for a display of this bar alone.

  Yields:
    The `Bar`.
  """
  is_shared = live is not None
  live = live or open_live(Console(), clock)
  if description:
    print_line(live.console, description)
  with contextlib.nullcontext() if is_shared else live:
    task_id = live.add_task(
      'epoch -',
      total=total_steps,
      completed=start_step,
      loss='loss -',
      accuracy='acc -',
      unit='steps/s',
    )
    task = live.tasks[-1]
    pending, printed_at = '', live.get_time()

    def flush() -> None:
      nonlocal pending, printed_at
      if pending:
        print_line(live.console, pending)
        pending, printed_at = '', live.get_time()

    def update(
      step: int,
      *,
      epoch: int,
      loss: float | None = None,
      accuracy: float | None = None,
    ) -> None:
      nonlocal pending
      label = f'epoch {epoch}' + ('' if epochs is None else f'/{epochs}')
      if label != task.description:
        flush()
      last_accuracy = task.fields['accuracy']
      changes: dict[str, Any] = {}
      if loss is not None:
        changes['loss'] = f'loss {loss:#.4g}'
      if accuracy is not None:
        changes['accuracy'] = f'acc {accuracy:.2f}%'
      live.update(task_id, completed=step, description=label, **changes)
      if live.disable:
        pending = _plain_line(task)
        is_new = task.fields['accuracy'] != last_accuracy
        if is_new or live.get_time() - printed_at >= LINE_PERIOD:
          flush()

    try:
      yield Bar(update, lambda text: print_line(live.console, text))
    finally:
      flush()
      if is_shared:
        live.remove_task(task_id)
        if not live.disable:
          shown = task.description, task.fields['loss'], task.fields['accuracy']
          print_line(live.console, '  '.join(shown))


def _plain_line(task: Task) -> str:
  fields, left = task.fields, TimeRemainingColumn().render(task).plain
  done, speed = f'{task.completed}/{task.total}', SpeedColumn().render(task)
  return (
    f'{task.description}  step {done}  {fields["loss"]}  {fields["accuracy"]}'
    f'  {speed.plain}  {left} left'
  )
