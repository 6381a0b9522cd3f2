"""Runs what is left of a study, one run after another."""

import pathlib
import re
import time
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from experiments.build import train_step
from experiments.common.errors import InvalidError, MissingError
from experiments.records import ledger
from experiments.study import display as study_display
from experiments.study import plan as study_plan
from experiments.study import spec
from experiments.training import train

Stop = Callable[[], bool]


def narrowed(
  study: spec.Study, only: str, epochs: int | None, data_dir: str
) -> dict[str, ConfigDict]:
  """The settings that are wanted.

  Args:
    study: Any.
    only: Regular expression; a setting is kept if it is found in its name.
    epochs: Of every run, in place of its own; the schedule is not shrunk, so
      these are the first epochs of the protocol.
    data_dir: Of every run, if not empty.

  Raises:
    InvalidError: If no setting is left, or `only` is no regular expression.
  """
  try:
    pattern = re.compile(only)
  except re.error as error:
    raise InvalidError(f'--only={only!r}: {error}') from error
  chosen = {k: v for k, v in study.settings.items() if pattern.search(k)}
  if not chosen:
    raise InvalidError(
      f'--only={only!r} is found in no name. There are:\n  '
      + '\n  '.join(study.settings)
    )
  for config in chosen.values():
    config.data_dir = data_dir or config.data_dir
    # What only quantizes has no epochs that could be more or fewer.
    config.epochs = config.epochs and (epochs or config.epochs)
  return chosen


def base_models(
  configs: Sequence[ConfigDict], folder: str, workdir: pathlib.Path
) -> dict[str, ConfigDict]:
  """Names the base model of every configuration, which it sets.

  Args:
    configs: Their `pretrained` is set, where they name none themselves and
      do not begin with random weights.
    folder: With model files; empty if the study makes its own.
    workdir: Of the study.

  Returns:
    What has to be trained first: folder of the run to its configuration.

  Raises:
    MissingError: If `folder` lacks one; the message has the names it may have.
      If the file that a configuration names is missing.
    InvalidError: If two configurations want different models of one network.
  """
  first: dict[str, ConfigDict] = {}
  for config in configs:
    if config.pretrained or train_step.is_from_scratch(config):
      _check_own_model(config)
      continue
    if folder:
      config.pretrained = str(
        _model_in(pathlib.Path(folder).absolute(), config)
      )
      continue
    base = train_step.base_config(config)
    name = f'{config.network}-{config.dataset}'
    if config.holdout:
      name += f'-holdout{config.holdout}'
    own = workdir / 'base' / name
    if first.setdefault(str(own), base) != base:
      raise InvalidError(
        f'the settings want different base models of {config.network} on'
        f' {config.dataset}: take some of them by --only, or name a folder with'
        ' base models by --pretrained'
      )
    config.pretrained = str(own / 'model.safetensors')
  return first


def _check_own_model(config: ConfigDict) -> None:
  path = pathlib.Path(config.pretrained).expanduser()
  if config.pretrained and not path.is_file():
    raise MissingError(
      f'the study names pretrained={config.pretrained!r}, but there is no such'
      ' file'
    )


def _model_in(folder: pathlib.Path, config: ConfigDict) -> pathlib.Path:
  names = [f'{config.network}-{config.dataset}.safetensors']
  if config.network.startswith('resnet'):
    depth = config.network.removeprefix('resnet')
    authors = f'MetaQuant-ResNet{depth}-{config.dataset.upper()}'
    names += [f'{authors}.safetensors', f'{authors}.pth']
  for name in names:
    if (folder / name).is_file():
      return folder / name
  raise MissingError(
    f'{folder} has no base model of {config.network} on {config.dataset}: it'
    f' may be called {" or ".join(names)}. Without --pretrained the study'
    ' trains its own.'
  )


def seconds(text: str) -> float:
  """A duration such as 90s, 8m, 2h or 1h30m, in seconds.

  Raises:
    InvalidError: If it is none.
  """
  match = re.fullmatch(r'(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?', text)
  if not text or not match:
    raise InvalidError(
      f'--budget={text!r} must be a duration such as 90s, 8m or 1h30m'
    )
  hours, minutes, rest = (int(part or 0) for part in match.groups())
  return 3600 * hours + 60 * minutes + rest


def run_study(
  plan: Callable[[], list[study_plan.Job]],
  bases: dict[str, ConfigDict],
  results: pathlib.Path,
  stop: Stop,
  display: study_display.Display,
) -> None:
  """Runs what is left, one after another, until `stop` says so.

  Args:
    plan: Gives the jobs that are not in the ledger.
    bases: What `base_models` returned.
    results: Folder of the ledger.
    stop: Asked before each run and within.
    display: Shows where the study is.
  """
  try:
    for folder, config in bases.items():
      path = pathlib.Path(folder)
      if any(path in _base_of(job).parents for job in plan()):
        _make_base(config, path, stop, display)
    done, told, ended = 0, set[str](), set[pathlib.Path]()
    # Again and again, since what another process had may be free by now, and
    # what was one run may have become several.
    while not stop():
      for job in plan():
        if job.workdir in ended:
          raise InvalidError(
            f'{job.workdir} has ended, but {results} does not show it: is an'
            ' entry being written or deleted there by something else?'
          )
        with study_plan.claimed(job.workdir) as mine:
          if mine:
            _run(job, results, stop, display.of(done, job.name))
            done += 1
            ended.add(job.workdir)
            break
        if job.name not in told:
          display.log(f'{job.name}: another process has it')
        told.add(job.name)
      else:
        return
  except train.Stopped:
    return


def _base_of(job: study_plan.Job) -> pathlib.Path:
  return pathlib.Path(job.config.pretrained)


def _make_base(
  config: ConfigDict,
  folder: pathlib.Path,
  stop: Stop,
  display: study_display.Display,
) -> None:
  """Trains a base model, or waits for the process that does."""
  waits = False
  while not stop():
    with study_plan.claimed(folder) as mine:
      if mine:
        show = display.beside(f'base {folder.name}')
        train.train_and_evaluate(config, folder, stop=stop, show=show)
        return
    if not waits:
      display.log(f'base {folder.name}: another process makes it')
    waits = True
    time.sleep(1)


def _run(
  job: study_plan.Job,
  results: pathlib.Path,
  stop: Stop,
  show: study_display.Show,
) -> None:
  diverged = ''
  try:
    train.train_and_evaluate(job.config, job.workdir, stop=stop, show=show)
  except train.TrainingDiverged as error:
    diverged = str(error).split('. ')[0]
    if job.config.trials > 1:
      study_plan.take_apart(job)
      return
  try:
    ledger.add(job.workdir, results, job.name, diverged=diverged)
  except ledger.TakenError as error:
    # Entries are told apart by what they hold; the name is for people.
    ledger.add(
      job.workdir, results, f'{job.name}-{error.digest}', diverged=diverged
    )
