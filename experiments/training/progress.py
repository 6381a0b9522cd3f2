"""What a person sees of a run while it trains: a bar.

On a terminal the bar is drawn by rich; into a file, a pipe or a notebook go
plain lines instead. Nothing is read back from here: the numbers of record are
in metrics.jsonl.
"""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
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


class Shown(NamedTuple):
  """The numbers on display, as text."""

  epoch: str = 'epoch -'
  loss: str = 'loss -'
  accuracy: str = 'acc -'
  rate: str = '- steps/s'
  left: str = '-:--:-- left'


@contextlib.contextmanager
def progress_bar(
  total_steps: int,
  start_step: int = 0,
  description: str = '',
  *,
  epochs: int | None = None,
  console: rich.console.Console | None = None,
  live: rich.progress.Progress | None = None,
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
    live: from `open_live`, to draw the bar beside others. At the end it then
      makes room, and a line is left.
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
  with contextlib.ExitStack() as stack:
    if live is not None:
      view = _passing_bar(live, total_steps, start_step, log)
    elif is_terminal(console):
      view = _bar(
        stack.enter_context(open_live(console)), total_steps, start_step
      )
    else:
      view = _lines(log, total_steps, clock)
    show = stack.enter_context(view)
    shown = Shown()

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
      shown = Shown(
        f'epoch {epoch}{of}',
        shown.loss if loss is None else f'loss {loss:#.4g}',
        shown.accuracy if accuracy is None else f'acc {accuracy:.2f}%',
        _speed_text(speed),
        left_text(total_steps - step, speed),
      )
      show(step, shown)

    yield Bar(update, log)


def is_terminal(console: rich.console.Console) -> bool:
  """Whether a bar can be drawn; FORCE_COLOR alone makes no terminal."""
  return console.is_interactive and console.file.isatty()


def open_live(console: rich.console.Console) -> rich.progress.Progress:
  """What bars are drawn in, over the whole width as far as texts leave room."""
  texts = [
    rich.progress.TextColumn(
      f'{{task.fields[{name}]}}',
      table_column=rich.table.Column(no_wrap=True),
    )
    for name in Shown._fields
  ]
  bar = rich.progress.BarColumn(
    bar_width=None, table_column=rich.table.Column(ratio=1)
  )
  return rich.progress.Progress(
    *(texts[0], bar, *texts[1:]),
    console=console,
    expand=True,
    refresh_per_second=4,
  )


@contextlib.contextmanager
def _bar(
  live: rich.progress.Progress, total_steps: int, start_step: int
) -> Iterator[Callable[[int, Shown], None]]:
  """A bar among those of `live`."""
  task = live.add_task(
    '', total=total_steps, completed=start_step, **Shown()._asdict()
  )
  yield lambda step, shown: live.update(task, completed=step, **shown._asdict())
  live.refresh()


@contextlib.contextmanager
def _passing_bar(
  live: rich.progress.Progress,
  total_steps: int,
  start_step: int,
  log: Callable[[str], None],
) -> Iterator[Callable[[int, Shown], None]]:
  """A bar that goes when it is done, and leaves what it showed as a line."""
  last = Shown()
  with _bar(live, total_steps, start_step) as draw:

    def show(step: int, shown: Shown) -> None:
      nonlocal last
      last = shown
      draw(step, shown)

    try:
      yield show
    finally:
      live.remove_task(live.task_ids[-1])
      log('  '.join(last[:3]))


@contextlib.contextmanager
def _lines(
  log: Callable[[str], None], total_steps: int, clock: Callable[[], float]
) -> Iterator[Callable[[int, Shown], None]]:
  """A line an epoch, and one now and then in a long epoch."""
  pending: tuple[int, Shown] | None = None
  last = Shown()
  printed_at = clock()

  def flush() -> None:
    nonlocal pending, printed_at
    if pending is not None:
      step, shown = pending
      log('  '.join([shown.epoch, f'step {step}/{total_steps}', *shown[1:]]))
      printed_at = clock()
    pending = None

  def show(step: int, shown: Shown) -> None:
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


def left_text(steps: float, speed: float | None) -> str:
  """The time that so many steps take, as text."""
  if not speed or speed < 0:
    return '-:--:-- left'
  seconds = round(max(steps, 0) / speed)
  hours, minutes = divmod(seconds // 60, 60)
  return f'{hours}:{minutes:02}:{seconds % 60:02} left'
