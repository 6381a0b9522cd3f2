"""Shows the progress of a study, and lists what is done."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import rich.console
import rich.table
import rich.text
from ml_collections import ConfigDict

from experiments.build.fingerprint import identity
from experiments.common.console import print_line
from experiments.records import ledger
from experiments.study import cost, plan
from experiments.training import progress

Show = Callable[..., Any]


class Display(NamedTuple):
  """The functions that write to a running display.

  Attributes:
    show_run: `(runs done, name) -> show`; `show` replaces
      `progress.progress_bar` in that run. `runs done` is None for a base model,
      which is not a run of the study.
    log_once: `(text)`, prints a line that it has not printed before.
  """

  show_run: Callable[[int | None, str], Show]
  log_once: Callable[[str], None]


@contextlib.contextmanager
def open_display(
  total: int, console: rich.console.Console | None = None
) -> Iterator[Display]:
  """Shows how far a study of `total` runs is while the context lasts.

  On a terminal there are two bars, the study's and the run's. Elsewhere there
  are the lines of each run, below a title that counts the runs.
  """
  with progress.open_live(console or rich.console.Console()) as live:
    study = live.add_task(f'run 0/{total}', total=total, is_waiting=False)

    def show_run(done: int | None, name: str) -> Show:
      title = name
      if done is not None:
        # A run becomes several where its seeds have to run alone.
        title = f'[{done + 1}/{max(total, done + 1)}] {name}'

      @contextlib.contextmanager
      def show(
        total_steps: int, start_step: int, description: str, **more: Any
      ) -> Iterator[progress.Bar]:
        del description  # The title says which run it is.
        with progress.progress_bar(
          total_steps, start_step, title, live=live, **more
        ) as bar:

          def update(step: int, **numbers: Any) -> None:
            bar.update(step, **numbers)
            if done is not None:
              live.update(
                study,
                completed=done + step / total_steps,
                description=f'run {min(done + 1, total)}/{total}',
              )

          yield bar._replace(update=update)

      return show

    log_once = functools.cache(functools.partial(print_line, live.console))
    yield Display(show_run, log_once)


def print_status(
  title: str,
  settings: Mapping[str, ConfigDict],
  trials: int,
  runs: Sequence[ledger.Run],
  planned: Sequence[plan.Job],
  queued: Mapping[pathlib.Path, str] = MappingProxyType({}),
  measured: Sequence[cost.Measured] = (),
  console: rich.console.Console | None = None,
) -> None:
  """Prints which trials of each setting are done and which are not.

  Args:
    title: Title of the study.
    settings: Name to configuration.
    trials: Number of trials wanted of each setting.
    runs: Runs in the ledger.
    planned: Runs that the ledger lacks.
    queued: Folders of runs to the numbers of their jobs in SLURM's queue.
    measured: Measured steps, from which the cost of the rest follows.
    console: Console to print on; standard output by default.
  """
  console = console or rich.console.Console()
  table = rich.table.Table(title=rich.text.Text(title))
  table.add_column('setting', overflow='fold')
  table.add_column('trials done', justify='right')
  table.add_column('seeds not done')
  jobs: dict[str, list[plan.Job]] = {}
  for job in planned:
    jobs.setdefault(identity(job.config.to_dict()), []).append(job)
  # Reading a status takes the lock of a run and reads its log.
  statuses = {job.workdir: plan.status(job) for job in planned}
  costs = {
    job.workdir: cost.of_epochs(
      job.config, job.config.epochs - statuses[job.workdir][1], measured
    )
    for job in planned
  }
  known = [found for found in costs.values() if found]
  if known:
    table.add_column('GPU hours left', justify='right')
  trials_done = 0
  digests = plan.data_digests()
  for name, config in settings.items():
    done = plan.done_seeds(config.to_dict(), runs, digests)
    done &= set(range(trials))
    trials_done += len(done)
    left = jobs.get(identity(config.to_dict()), [])
    row = [name, f'{len(done)}/{trials}', _states(left, statuses, queued)]
    if known:
      row.append(cost.describe([costs[job.workdir] for job in left]))
    table.add_row(*row)
  console.print(table)
  console.print(f'{trials_done} of {len(settings) * trials} trials are done.')
  if known:
    print_line(console, cost.note(known, len(planned)))


def _states(
  planned: Sequence[plan.Job],
  statuses: Mapping[pathlib.Path, tuple[str, int]],
  queued: Mapping[pathlib.Path, str],
) -> str:
  """Lists the seeds that are not done, grouped by how far they are."""
  seeds: dict[str, list[str]] = {}
  for job in planned:
    state, epochs = statuses[job.workdir]
    begun = f' ({epochs}/{job.config.epochs} epochs)'
    if state != plan.RUNNING and job.workdir in queued:
      state = f'in the queue as {queued[job.workdir]}'
      state += begun * bool(epochs)
    elif state != plan.MISSING:
      state += begun
    first, trials = job.config.seed, job.config.trials
    text = f'{first}' if trials == 1 else f'{first} to {first + trials - 1}'
    seeds.setdefault(state, []).append(text)
  return '; '.join(f'{state}: {", ".join(s)}' for state, s in seeds.items())
