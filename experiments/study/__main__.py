"""Runs a study: a grid of configurations, resumable, in slices if wanted.

  python -m experiments.study --study=experiments/studies/table1.py \
    --workdir=runs/table1 --pretrained=FOLDER [--only REGEX] [--trials 5]
    [--epochs N] [--budget 8m] [--list]

The same command goes on where it was stopped, by whatever. Finished runs go
into the ledger, `WORKDIR/results` or --results, from which
`python -m experiments.report --results=…` makes tables and figures. Several
such processes may share one folder: each run has one of them.
"""

import pathlib
import time

import jax
from absl import app, flags

from experiments.common import errors, runtime
from experiments.records import ledger
from experiments.study import display as study_display
from experiments.study import plan as study_plan
from experiments.study import spec
from experiments.study.run import (
  Stop,
  base_models,
  narrowed,
  run_study,
  seconds,
)


def _deadline(budget: str) -> Stop:
  if not budget:
    return lambda: False
  end = time.monotonic() + seconds(budget)
  return lambda: time.monotonic() >= end


def main(argv: list[str]) -> None:
  """Lists the study, runs what is left of it, and lists it again."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  with errors.exit_on_user_error():
    _main()


def _main() -> None:
  arguments = flags.FLAGS
  # A run that was begun has the path of its base model in its log.
  workdir = pathlib.Path(arguments.workdir).absolute()
  results = pathlib.Path(arguments.results or workdir / 'results')
  stop = _deadline(arguments.budget)
  name = pathlib.Path(arguments.study).stem
  study = spec.load(arguments.study)
  chosen = narrowed(study, arguments.only, arguments.epochs, arguments.data_dir)
  bases = base_models(list(chosen.values()), arguments.pretrained, workdir)
  trials = arguments.trials or study.trials

  def plan() -> list[study_plan.Job]:
    # On CPU trials take turns anyway, and alone each is done sooner.
    return study_plan.jobs(
      name,
      chosen,
      trials,
      ledger.read(results),
      workdir,
      together=jax.default_backend() != 'cpu',
    )

  def show() -> list[study_plan.Job]:
    planned = plan()
    study_display.print_status(
      study.title, chosen, trials, ledger.read(results), planned
    )
    return planned

  if arguments.list:
    show()
    return
  runtime.configure()
  planned = show()
  if planned:
    with study_display.opened(len(planned)) as display:
      run_study(plan, bases, results, stop, display)
    planned = show()
  print(
    f'{len(planned)} runs are left; the same command goes on.'
    if planned
    else f'All runs are in {results}. For tables and figures: python -m'
    f' experiments.report --results={results} --out={workdir / "report"}'
  )


if __name__ == '__main__':
  flags.DEFINE_string('study', None, 'File of the study.', required=True)
  flags.DEFINE_string('workdir', None, 'Folder of its runs.', required=True)
  flags.DEFINE_string('results', '', 'Ledger. Default: WORKDIR/results.')
  flags.DEFINE_string('pretrained', '', 'Folder with base models.')
  flags.DEFINE_string('data_dir', '', 'Where prepared sets lie.')
  flags.DEFINE_string('only', '', 'Regular expression, found in a name.')
  flags.DEFINE_integer('trials', None, 'Seeds a setting.', lower_bound=1)
  flags.DEFINE_integer('epochs', None, 'Of every run.', lower_bound=1)
  flags.DEFINE_string('budget', '', 'Stop cleanly after, such as 8m or 2h.')
  flags.DEFINE_bool('list', False, 'Only say what is done and what is not.')
  app.run(main)
