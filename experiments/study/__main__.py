r"""Runs the missing runs of a study, which is a grid of configurations.

  python -m experiments.study --study=experiments/studies/table1.py \
    --workdir=runs/table1 --pretrained=FOLDER [--only REGEX] [--trials 5]
    [--epochs N] [--budget 8m] [--list] [--smoke]
    [--launch local|slurm] [--launch_jobs N] [--launch_params NAME=VALUE,…]

Rerun the command to resume after any stop; --budget stops it after a time.
Finished runs enter the ledger, `WORKDIR/results` or --results, from which
`python -m experiments.report --results=…` makes tables and figures. Several
processes may work on one folder: each run belongs to one of them. `--launch`
makes each missing run a job, on this machine or on a SLURM cluster.
"""

import functools
import math
import pathlib
import time
from collections.abc import Callable

import jax
from absl import app, flags
from ml_collections import ConfigDict

from experiments.common import files, runtime
from experiments.common.errors import (
  InvalidError,
  MissingError,
  exit_on_user_error,
)
from experiments.records import ledger
from experiments.study import (
  cluster,
  cost,
  display,
  launch,
  plan,
  queued,
  run,
  spec,
)
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
  _check_launch()
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


def _check_launch() -> None:
  """Refuses flags that do not fit --launch, and a missing package."""
  arguments = flags.FLAGS
  if not arguments.launch:
    for name in ('launch_jobs', 'launch_params'):
      if getattr(arguments, name):
        raise InvalidError(
          f'--{name} has no effect without --launch=local or --launch=slurm.'
        )
    return
  if arguments.smoke or arguments.budget:
    raise InvalidError(
      '--launch takes neither --smoke nor --budget: leave them out. The time'
      ' of a job is timeout_min in --launch_params.'
    )
  cluster.check_submitit()
  cluster.parse(arguments.launch_params)


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

  missing_jobs = functools.partial(
    plan.missing,
    *(name, settings, trials, results, workdir),
    # On CPU a batch of trials is slower than one program per trial, and the
    # first trial is done sooner. Jobs run at the same time.
    together=not arguments.launch and jax.default_backend() != 'cpu',
  )
  measured = cost.read()

  def print_status(missing: list[plan.Job]) -> None:
    display.print_status(
      *(study.title, settings, trials, ledger.read(results), missing),
      queued=_in_queue(workdir),
      measured=measured,
    )

  missing = missing_jobs()
  print_status(missing)
  if arguments.list:
    return
  files.remove_leftovers(results, mine=False)
  if missing and arguments.launch:
    _launch(missing_jobs, bases, results, workdir)
    if arguments.launch == cluster.SLURM:
      return
    missing = missing_jobs()
    print_status(missing)
  elif missing:
    runtime.configure(fast_compilation=arguments.smoke)
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
      f' experiments.report --study={arguments.study} --results={results}'
      f' --out={workdir / "report"}'
    )


def _launch(
  missing_jobs: Callable[[], list[plan.Job]],
  bases: dict[str, ConfigDict],
  results: pathlib.Path,
  workdir: pathlib.Path,
) -> None:
  """Makes each missing run of a study a job."""
  arguments = flags.FLAGS
  kind = arguments.launch
  options = launch.Options(
    kind,
    arguments.launch_jobs or launch.DEFAULT_JOBS[kind],
    cluster.parse(arguments.launch_params),
    pathlib.Path(arguments.study).stem,
    workdir,
  )
  start = launch.launch_slurm if kind == cluster.SLURM else launch.launch_local
  start(options, *launch.tasks(missing_jobs, bases, results))


def _in_queue(workdir: pathlib.Path) -> dict[pathlib.Path, str]:
  """Returns the numbers of the jobs that wait or run, by folder."""
  try:
    return {folder: at.job for folder, at in queued.in_queue(workdir).items()}
  except MissingError as error:
    # The list is also useful on a machine without SLURM.
    print(error)
    return {}


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
    'epochs',
    None,
    'Run at most this many epochs, the first ones, of each setting.',
    lower_bound=1,
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
  flags.DEFINE_enum(
    'launch',
    None,
    [cluster.LOCAL, cluster.SLURM],
    'Make each missing run a job: local, processes of this machine; slurm, jobs'
    ' of a cluster.',
  )
  flags.DEFINE_integer(
    'launch_jobs',
    None,
    'Jobs at a time; by default '
    + ', '.join(f'{kind}: {n}' for kind, n in launch.DEFAULT_JOBS.items())
    + '.',
    lower_bound=1,
  )
  flags.DEFINE_string(
    'launch_params',
    '',
    'Parameters of submitit, such as timeout_min=240,slurm_partition=gpu; by'
    f' default {cluster.default_text()} on SLURM. 0 leaves out a request.',
  )
  app.run(main)
