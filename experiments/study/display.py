"""What a person sees of a study: a list, and one display for the whole."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import rich.console
import rich.table
import rich.text
from ml_collections import ConfigDict

from experiments.build.fingerprint import identity
from experiments.records import ledger
from experiments.study import plan
from experiments.training import progress

Show = Callable[..., Any]
TICKS = 1000  # of a run, in the bar of the whole


class Display(NamedTuple):
  """A running display.

  Attributes:
    of: `(runs done, name) -> show`; `show` takes the place of
      `progress.progress_bar` in that run.
    beside: `(name) -> show` of what is no run of the study, such as a base
      model.
    log: `(text)`, prints a line.
  """

  of: Callable[[int, str], Show]
  beside: Callable[[str], Show]
  log: Callable[[str], None]


@contextlib.contextmanager
def opened(
  total: int, console: rich.console.Console | None = None
) -> Iterator[Display]:
  """Shows how far a study of `total` runs is, for as long as the context lasts.

  On a terminal there are two bars, the run's and the study's; elsewhere each
  line is the run's, after a title that counts the runs.
  """
  console = console or rich.console.Console()
  with contextlib.ExitStack() as stack:
    live, whole = None, None
    if progress.is_terminal(console):
      live = stack.enter_context(progress.open_live(console))
      whole = live.add_task(
        '',
        total=total * TICKS,
        **progress.Shown(f'run 0/{total}', '', '', '', '')._asdict(),
      )
    began: tuple[float, float] | None = None

    def advance(done: float) -> None:
      nonlocal began
      if live is None or whole is None:
        return
      now = time.monotonic()
      then, before = began = began or (now, done)
      speed = (done - before) / (now - then) if now > then else None
      live.update(
        whole,
        completed=done * TICKS,
        epoch=f'run {min(int(done) + 1, total)}/{total}',
        left=progress.left_text(total - done, speed),
      )

    def show_in(done: int | None, title: str) -> Show:
      @contextlib.contextmanager
      def show(
        total_steps: int, start_step: int, description: str, *, epochs: int
      ) -> Iterator[progress.Bar]:
        del description  # the title says more
        with progress.progress_bar(
          *(total_steps, start_step, title),
          epochs=epochs,
          console=console,
          live=live,
        ) as bar:

          def update(step: int, **shown: Any) -> None:
            bar.update(step, **shown)
            if done is not None:
              advance(done + step / total_steps)

          yield bar._replace(update=update)

      return show

    yield Display(
      # A run whose trials are taken apart becomes several.
      of=lambda done, name: show_in(
        done, f'[{done + 1}/{max(total, done + 1)}] {name}'
      ),
      beside=lambda name: show_in(None, name),
      log=lambda text: console.print(
        rich.text.Text(text), soft_wrap=True, highlight=False
      ),
    )


def print_status(
  title: str,
  settings: Mapping[str, ConfigDict],
  trials: int,
  runs: Sequence[ledger.Run],
  planned: Sequence[plan.Job],
  console: rich.console.Console | None = None,
) -> None:
  """Prints, setting by setting, which trials are done and which are not.

  Args:
    title: Of the study.
    settings: Name to configuration.
    trials: Wanted of each.
    runs: Of the ledger.
    planned: What is not in it.
    console: Where to print; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(title=rich.text.Text(title))
  table.add_column('setting', overflow='fold')
  table.add_column('trials done', justify='right')
  table.add_column('seeds not done')
  left: dict[str, list[plan.Job]] = {}
  for job in planned:
    left.setdefault(identity(job.config.to_dict()), []).append(job)
  finished = 0
  for name, config in settings.items():
    done = plan.done_seeds(config.to_dict(), runs) & set(range(trials))
    finished += len(done)
    table.add_row(
      name,
      f'{len(done)}/{trials}',
      _states(left.get(identity(config.to_dict()), [])),
    )
  console.print(table)
  console.print(f'{finished} of {len(settings) * trials} trials are done.')


def _states(planned: Sequence[plan.Job]) -> str:
  """The seeds that are not done, by how far they are."""
  seeds: dict[str, list[str]] = {}
  for job in planned:
    state, epochs = plan.status(job)
    if state != plan.MISSING:
      state += f' ({epochs}/{job.config.epochs} epochs)'
    first, trials = job.config.seed, job.config.trials
    own = f'{first}' if trials == 1 else f'{first} to {first + trials - 1}'
    seeds.setdefault(state, []).append(own)
  return '; '.join(f'{state}: {", ".join(own)}' for state, own in seeds.items())
