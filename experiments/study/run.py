"""Runs the missing runs of a study, one after another."""

import contextlib
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from experiments import training
from experiments.build.base_model import base_config, is_from_scratch
from experiments.build.schedules import spans_run
from experiments.common.errors import BusyError, InvalidError, MissingError
from experiments.records import ledger
from experiments.records.workdir import model_path
from experiments.study import display as study_display
from experiments.study import plan as study_plan
from experiments.study import spec
from experiments.training.smoke import smoke_config

Stop = Callable[[], bool]


def select_settings(
  study: spec.Study, only: str, epochs: int | None, data_dir: str
) -> dict[str, ConfigDict]:
  """Returns the settings to run, with the options of the command applied.

  Args:
    study: Study, whose configurations are changed in place.
    only: Regular expression; a setting is kept if its name contains a match.
    epochs: Largest number of epochs of a run; None keeps those of the study.
      The schedule stays as it is, so these are the first epochs of a setting.
    data_dir: Data folder of every run; empty keeps that of the study.

  Returns:
    Name to configuration.

  Raises:
    InvalidError: If no setting is left, if `only` is not a regular expression,
      or if a schedule of a setting extends over all of its epochs.
  """
  try:
    pattern = re.compile(only)
  except re.error as error:
    raise InvalidError(
      f'--only={only!r} is not a regular expression: {error}'
    ) from error
  chosen = {k: v for k, v in study.settings.items() if pattern.search(k)}
  if not study.settings:
    raise InvalidError(
      f'The study {study.title!r} has no setting yet: its file says what it'
      ' needs first.'
    )
  if not chosen:
    raise InvalidError(
      f'--only={only!r} matches no setting. The study has:\n  '
      + '\n  '.join(study.settings)
    )
  for config in chosen.values():
    config.data_dir = data_dir or config.data_dir
  if epochs is not None:
    _shorten(chosen, epochs)
  return chosen


def _shorten(settings: Mapping[str, ConfigDict], epochs: int) -> None:
  """Limits every setting to its first epochs."""
  longer = {k: v for k, v in settings.items() if v.epochs > epochs}
  if whole := [name for name, config in longer.items() if spans_run(config)]:
    raise InvalidError(
      f'--epochs={epochs}: a schedule of these settings extends over all of'
      ' their epochs, so fewer epochs would be another protocol. Leave them out'
      ' by --only, or give them fewer epochs in a study of your own:\n  '
      + '\n  '.join(whole)
    )
  for config in longer.values():
    config.epochs = epochs


def smoke_settings(
  settings: Mapping[str, ConfigDict],
) -> dict[str, ConfigDict]:
  """Returns the configuration of a smoke run of the first setting, by name."""
  name, config = next(iter(settings.items()))
  return {name: smoke_config(config)}


def base_models(
  configs: Sequence[ConfigDict],
  folder: str,
  workdir: pathlib.Path,
  *,
  must_exist: bool = True,
) -> dict[str, ConfigDict]:
  """Sets the base model of every configuration.

  Args:
    configs: Configurations, changed in place: `pretrained` is set where it is
      empty and the run does not begin with random weights.
    folder: Folder with model files; empty if the study trains its own.
    workdir: Folder of the study.
    must_exist: False if the runs are only listed, for which no file is needed.

  Returns:
    The base models to train first: folder of the run to its configuration.

  Raises:
    MissingError: If the file that a configuration names is missing, or `folder`
      lacks a model; the message lists the names that the file may have.
    InvalidError: If two configurations need different models of one network.
  """
  first: dict[str, ConfigDict] = {}
  for config in configs:
    if config.pretrained or is_from_scratch(config):
      path = pathlib.Path(config.pretrained).expanduser()
      if config.pretrained and must_exist and not path.is_file():
        raise MissingError(
          f'The study names pretrained={config.pretrained!r}, but there is no'
          ' such file. Put the file there, or change the study.'
        )
      continue
    if folder:
      config.pretrained = str(
        _model_in(pathlib.Path(folder).absolute(), config, must_exist)
      )
      continue
    base = base_config(config)
    name = f'{config.network}-{config.dataset}'
    if config.holdout:
      name += f'-holdout{config.holdout}'
    base_workdir = workdir / 'base' / name
    if first.setdefault(str(base_workdir), base) != base:
      raise InvalidError(
        f'The settings need different base models of {config.network} on'
        f' {config.dataset}. Select some settings with --only, or name a folder'
        ' of base models with --pretrained.'
      )
    config.pretrained = str(model_path(base_workdir, base))
  return first


def _model_in(
  folder: pathlib.Path, config: ConfigDict, must_exist: bool
) -> pathlib.Path:
  names = [f'{config.network}-{config.dataset}.safetensors']
  # These are the names of the authors' files, of which none is of ImageNet.
  if config.network.startswith('resnet') and 'cifar' in config.dataset:
    depth = config.network.removeprefix('resnet')
    authors = f'MetaQuant-ResNet{depth}-{config.dataset.upper()}'
    names += [f'{authors}.safetensors', f'{authors}.pth']
  for name in names:
    if (folder / name).is_file():
      return folder / name
  if not must_exist:
    return folder / names[0]
  raise MissingError(
    f'{folder} has no base model of {config.network} on {config.dataset}. Name'
    f' the file {" or ".join(names)}, or leave out --pretrained, so that the'
    ' study trains its own.'
  )


def seconds(text: str) -> float:
  """Returns the seconds of a duration such as 90s, 8m, 2h or 1h30m.

  Raises:
    InvalidError: If the text is not a duration.
  """
  match = re.fullmatch(r'(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?', text)
  if not text or not match:
    raise InvalidError(
      f'--budget={text!r} must be a duration such as 90s, 8m or 1h30m.'
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
  """Runs the planned jobs, one after another, until `stop` returns True.

  Args:
    plan: Function that returns the jobs that are not in the ledger.
    bases: Result of `base_models`.
    results: Folder of the ledger.
    stop: Function that is called before each run and between its steps.
    display: Display of the progress.

  Raises:
    InvalidError: If a finished run does not appear in the ledger.
  """
  try:
    for folder, config in used_bases(plan(), bases).items():
      make_base(config, pathlib.Path(folder), stop, display)
    ended: set[pathlib.Path] = set()
    # The plan is made again after each run: another process may have released
    # a run by now, and one run may have become several.
    while not stop():
      for job in plan():
        if job.workdir in ended:
          raise InvalidError(
            f'The run in {job.workdir} has ended, but {results} has no entry'
            ' for it. Check whether another program writes or deletes files'
            ' there.'
          )
        # A process of another command may have the folder.
        with (
          contextlib.suppress(BusyError),
          study_plan.claim_run(job.workdir) as is_claimed,
        ):
          if is_claimed:
            show = display.show_run(len(ended), job.name)
            _run(job, results, stop, show)
            ended.add(job.workdir)
            break
        display.log_once(f'{job.name}: another process is running it.')
      else:
        return
  except training.Stopped:
    return


def used_bases(
  jobs: Sequence[study_plan.Job], bases: Mapping[str, ConfigDict]
) -> dict[str, ConfigDict]:
  """Returns those of the result of `base_models` that runs start from."""
  files = [pathlib.Path(job.config.pretrained) for job in jobs]
  return {
    folder: config
    for folder, config in bases.items()
    if any(pathlib.Path(folder) in file.parents for file in files)
  }


def make_base(
  config: ConfigDict,
  folder: pathlib.Path,
  stop: Stop,
  display: study_display.Display,
) -> None:
  """Trains a base model, or waits for the process that trains it.

  Args:
    config: Configuration of the base model.
    folder: Folder of its run.
    stop: Function that is called before the run and between its steps.
    display: Display of the progress.

  Raises:
    Stopped: If `stop` returned True during training.
  """
  while not stop():
    with (
      contextlib.suppress(BusyError),
      study_plan.claim_run(folder) as is_claimed,
    ):
      if is_claimed:
        show = display.show_run(None, f'base {folder.name}')
        training.train_and_evaluate(config, folder, stop=stop, show=show)
        return
    display.log_once(f'base {folder.name}: another process is training it.')
    time.sleep(1)


def _run(
  job: study_plan.Job,
  results: pathlib.Path,
  stop: Stop,
  show: study_display.Show,
) -> None:
  diverged = ''
  try:
    training.train_and_evaluate(job.config, job.workdir, stop=stop, show=show)
  except training.TrainingDiverged as error:
    diverged = str(error).split('. ')[0]
    if job.config.trials > 1:
      study_plan.run_seeds_alone(job)
      return
  try:
    ledger.add(job.workdir, results, job.name, diverged=diverged)
  except ledger.TakenError as error:
    # Entries differ by their contents, and two may want the same name.
    ledger.add(
      job.workdir, results, f'{job.name}-{error.digest}', diverged=diverged
    )
