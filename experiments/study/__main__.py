r"""Runs the missing runs of a study, which is a grid of configurations.

  python -m experiments.study --study=experiments/studies/table1.py \
    --workdir=runs/table1 --pretrained=FOLDER [--only REGEX] [--trials 5]
    [--epochs N] [--budget 8m] [--list] [--smoke]

Rerun the command to resume after any stop; --budget stops it after a time.
Finished runs enter the ledger, `WORKDIR/results` or --results, from which
`python -m experiments.report --results=…` makes tables and figures. Several
processes may work on one folder: each run belongs to one of them.
"""

import math
import pathlib
import time

import jax
from absl import app, flags

from experiments.common import files, runtime
from experiments.common.errors import InvalidError, exit_on_user_error
from experiments.records import ledger
from experiments.study import display, plan, run, spec
from experiments.training import smoke


@exit_on_user_error()
def main(argv: list[str]) -> None:
  """Lists the study, runs its missing runs, and lists it again."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  arguments = flags.FLAGS
  # A run has the path of its base model in its log, so the path must not
  # depend on the folder that the command is run in.
  workdir = pathlib.Path(arguments.workdir).absolute()
  if not arguments.smoke:
    _work(workdir, pathlib.Path(arguments.results or workdir / 'results'))
    return
  _refuse_sizes()
  if arguments.list:
    folder = smoke.smoke_folder(workdir)
    _work(folder, folder / 'results')
    return
  with smoke.locked_smoke_folder(workdir) as folder:
    _work(folder, folder / 'results')


def _refuse_sizes() -> None:
  """Refuses flags that have no effect on a smoke run."""
  for name in ('results', 'trials', 'epochs'):
    if getattr(flags.FLAGS, name):
      raise InvalidError(
        '--smoke runs one trial of one epoch, with a ledger of its own: leave'
        f' out --{name}.'
      )


def _work(workdir: pathlib.Path, results: pathlib.Path) -> None:
  """Works on a study in a folder.

  Args:
    workdir: Folder of the runs.
    results: Folder of the ledger.
  """
  arguments = flags.FLAGS
  budget = run.seconds(arguments.budget) if arguments.budget else math.inf
  end = time.monotonic() + budget
  name = pathlib.Path(arguments.study).stem
  study = spec.load(arguments.study)
  settings = run.select_settings(
    study, arguments.only, arguments.epochs, arguments.data_dir
  )
  if arguments.smoke:
    settings = run.smoke_settings(settings)
  bases = run.base_models(
    [*settings.values()],
    arguments.pretrained,
    workdir,
    must_exist=not arguments.list,
  )
  trials = 1 if arguments.smoke else arguments.trials or study.trials

  def missing_jobs() -> list[plan.Job]:
    # On CPU a batch of trials is slower than one program per trial, and the
    # first trial is done sooner.
    return plan.jobs(
      name,
      settings,
      trials,
      ledger.read(results),
      workdir,
      together=jax.default_backend() != 'cpu',
    )

  def print_status(missing: list[plan.Job]) -> None:
    display.print_status(
      study.title, settings, trials, ledger.read(results), missing
    )

  missing = missing_jobs()
  print_status(missing)
  if arguments.list:
    return
  runtime.configure(fast_compilation=arguments.smoke)
  files.remove_leftovers(results, mine=False)
  if missing:
    with display.open_display(len(missing)) as progress:
      run.run_study(
        missing_jobs, bases, results, lambda: time.monotonic() >= end, progress
      )
    missing = missing_jobs()
    print_status(missing)
  if missing:
    runs = '1 run is' if len(missing) == 1 else f'{len(missing)} runs are'
    print(f'{runs} left. Rerun the command to resume.')
  elif arguments.smoke:
    print(f'The smoke run in {workdir} is complete. Leave out --smoke to run.')
  else:
    print(
      f'All runs are in {results}. To make tables and figures, run python -m'
      f' experiments.report --results={results} --out={workdir / "report"}'
    )


if __name__ == '__main__':
  flags.DEFINE_string('study', None, 'File of the study.', required=True)
  flags.DEFINE_string('workdir', None, 'Folder for the runs.', required=True)
  flags.DEFINE_string(
    'results', '', 'Use the ledger in this folder instead of WORKDIR/results.'
  )
  flags.DEFINE_string(
    'pretrained', '', 'Folder of base models to use instead of training them.'
  )
  flags.DEFINE_string('data_dir', '', 'Folder of the prepared data sets.')
  flags.DEFINE_string('only', '', 'Regular expression of the settings to run.')
  flags.DEFINE_integer('trials', None, 'Seeds per setting.', lower_bound=1)
  flags.DEFINE_integer(
    'epochs', None, 'Run only the first epochs, this many.', lower_bound=1
  )
  flags.DEFINE_string(
    'budget', '', 'Save and exit after this time, such as 8m or 1h30m.'
  )
  flags.DEFINE_bool(
    'smoke',
    False,
    f'{smoke.HELP} Runs one trial of the first setting that --only selects.',
  )
  flags.DEFINE_bool(
    'list', False, 'Print which runs are done and which are missing, and exit.'
  )
  app.run(main)
