"""Tests complete studies in real processes: killed, sliced or shared."""

import io
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import pytest
import rich.console

from experiments.common import errors
from experiments.configs import resnet18
from experiments.records import ledger, run_log
from experiments.study import display as study_display
from experiments.study import plan as study_plan
from experiments.study import run as study_run
from experiments.study import spec
from tests.experiments import tiny

ROOT = pathlib.Path(__file__).parents[3]
SECONDS = 300
STUDY = """
from experiments.study import Study, in_protocol

def get_study():
  return Study('Tiny', {
    estimator: in_protocol(
      'fair', network='resnet8', dataset='digits', estimator=estimator,
      batch_size=256, epochs=3, pretrain_epochs=1, learning_rate=alpha,
      checkpoint_every=2, chunk=1, hidden=3)
    for estimator, alpha in (('ste', 1e-2), ('fc_grad', 1e-2))}, trials=2)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Makes a folder with the study file; compiled programs are stored there."""
  path = tmp_path_factory.mktemp('study')
  (path / 'tiny.py').write_text(STUDY)
  return path


def start(folder, workdir, *more):
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return subprocess.Popen(
    [
      *(sys.executable, '-c', tiny.program('experiments.study')),
      f'--study={folder / "tiny.py"}',
      f'--workdir={workdir}',
      *more,
    ],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  out, _ = process.communicate(timeout=SECONDS)
  return process.returncode, out


def measured(workdir):
  """Returns the records by name, without their times."""
  return {
    run.name: tiny.timeless(run.records)
    for run in ledger.read(workdir / 'results')
  }


@pytest.fixture(scope='module')
def reference(folder):
  """Runs the study without interruption."""
  workdir = folder / 'whole'
  status, out = finish(start(folder, workdir))
  assert status == 0, out
  assert '4 of 4 trials are done.' in out
  assert f'All runs are in {workdir}' in out
  return workdir


@pytest.mark.slow
def test_study_uninterrupted_runs_each_trial_once(reference):
  runs = measured(reference)
  assert list(runs) == [
    f'tiny-{name}-3epochs-seed{seed}'
    for name in ('fc_grad', 'ste')
    for seed in (0, 1)
  ]
  assert all(len(records) == 3 for records in runs.values())
  first, second = (runs[f'tiny-fc_grad-3epochs-seed{i}'] for i in (0, 1))
  assert first != second
  # All runs share one base model.
  bases = {
    run.header['start']['base_accuracy']
    for run in ledger.read(reference / 'results')
  }
  assert len(bases) == 1
  assert len(list((reference / 'base').glob('*/metrics.jsonl'))) == 1


@pytest.mark.slow
def test_study_finished_is_not_changed(folder, reference):
  stamps = {p: p.stat().st_mtime_ns for p in reference.rglob('*.jsonl')}
  status, out = finish(start(folder, reference))
  assert status == 0, out
  assert out.count('4 of 4 trials are done.') == 1
  assert {p: p.stat().st_mtime_ns for p in reference.rglob('*.jsonl')} == stamps


@pytest.mark.slow
def test_study_killed_at_any_moment_has_no_duplicate_runs(folder, reference):
  workdir = folder / 'killed'
  moments = []
  for _ in range(5):
    process = start(folder, workdir)
    # The first kill comes before a fast machine has finished.
    moments.append(random.uniform(4, 12) if moments else random.uniform(2, 5))
    try:
      process.wait(moments[-1])
    except subprocess.TimeoutExpired:
      process.kill()
    _, out = finish(process)
    for run in ledger.read(workdir / 'results'):
      assert len(run.records) == 3, moments  # complete or absent
    if process.returncode == 0:
      break
  else:
    status, out = finish(start(folder, workdir))
    assert status == 0, (moments, out)
  assert len(moments) > 1, 'it was never killed'
  assert measured(workdir) == measured(reference), moments


@pytest.mark.slow
def test_study_in_slices_and_two_processes_has_same_results(folder, reference):
  workdir = folder / 'sliced'
  status, out = finish(start(folder, workdir, '--list'))
  assert status == 0, out
  assert '0 of 4 trials are done.' in out
  assert not workdir.exists()
  status, out = finish(start(folder, workdir, '--budget=1s'))
  assert status == 0, out
  assert '4 runs are left. Rerun the command to resume.' in out
  both = [start(folder, workdir) for _ in range(2)]
  ends = [finish(process) for process in both]
  assert [status for status, _ in ends] == [0, 0], ends
  # One process may end while the other still trains its run.
  status, out = finish(start(folder, workdir))
  assert status == 0, out
  assert measured(workdir) == measured(reference)


@pytest.mark.slow
def test_study_diverged_run_is_a_result(folder):
  workdir = folder / 'diverging'
  wild = folder / 'wild.py'
  wild.write_text(STUDY.replace("('ste', 1e-2), ", "('ste', 3e38), "))
  status, out = finish(start(folder, workdir, f'--study={wild}', '--trials=1'))
  assert status == 0, out
  runs = {run.name: run for run in ledger.read(workdir / 'results')}
  assert runs['wild-fc_grad-3epochs-seed0'].header.get('diverged') is None
  diverged = runs['wild-ste-3epochs-seed0']
  assert 'not finite at step 1' in diverged.header['diverged']
  assert diverged.records == []


@pytest.mark.slow
def test_study_signal_or_budget_saves_within_run(folder):
  """Stops a run of many epochs by SIGTERM, and then by its budget."""
  workdir, long = folder / 'stopped', folder / 'long.py'
  long.write_text(STUDY.replace('epochs=3', 'epochs=2000'))
  options = (f'--study={long}', '--trials=1', '--only=fc_grad')

  def logs():
    return list((workdir / 'runs').glob('*/metrics.jsonl'))

  process = start(folder, workdir, *options)
  end = time.monotonic() + SECONDS
  # Wait for an epoch: before the first step there is nothing to save.
  while not any(run_log.read_log(log)[1] for log in logs()):
    assert process.poll() is None
    assert time.monotonic() < end
    time.sleep(0.01)
  process.terminate()
  status, out = finish(process)
  assert status == 143, out
  assert re.search(r'Checkpoint saved at step \d+\.', out)
  assert 'Traceback' not in out
  (log,) = logs()
  before = len(run_log.read_log(log)[1])
  for _ in range(10):
    # On a slow machine a slice may end before the first step.
    status, out = finish(start(folder, workdir, *options, '--budget=8s'))
    assert status == 0, out
    assert '1 run is left. Rerun the command to resume.' in out
    _, records = run_log.read_log(log)
    if len(records) > before:
      break
  assert len(records) > before
  assert [r['epoch'] for r in records] == list(range(1, len(records) + 1))
  status, out = finish(start(folder, workdir, *options, '--list'))
  assert f'begun ({len(records)}/2000 epochs): 0' in ' '.join(out.split())


def in_process(tmp_path, monkeypatch, trials, **changes):
  """Runs one setting of the tiny network, with all trials in one program."""
  tiny.put_in(monkeypatch)
  base = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  config = tiny.config(pretrained=base, **changes)
  results = tmp_path / 'results'

  def plan():
    return study_plan.jobs(
      *('t', {'tiny': config}, trials, ledger.read(results), tmp_path),
      together=True,
    )

  console = rich.console.Console(file=io.StringIO())
  with study_display.open_display(1, console) as display:
    study_run.run_study(plan, {}, results, lambda: False, display)
  return ledger.read(results)


def test_run_study_diverged_group_gets_one_run_per_seed(tmp_path, monkeypatch):
  runs = in_process(
    *(tmp_path, monkeypatch, 2), estimator='ste', learning_rate=3e38
  )
  assert [run.name for run in runs] == [
    f't-tiny-2epochs-seed{i}' for i in (0, 1)
  ]
  assert all('not finite at step 1' in run.header['diverged'] for run in runs)


def test_run_study_finished_group_is_one_entry(tmp_path, monkeypatch):
  (run,) = in_process(tmp_path, monkeypatch, 2, estimator='ste')
  assert run.name == 't-tiny-2epochs-seeds0to1'
  assert sorted(ledger.trials(run)) == [0, 1]


def test_run_study_missing_entry_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(ledger, 'add', lambda *args, **kwargs: None)
  with pytest.raises(errors.InvalidError, match='has no entry for it'):
    in_process(tmp_path, monkeypatch, 1, estimator='ste', epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (
      ('--only=lstm',),
      "--only='lstm' matches no setting. The study has:\n  ste\n",
    ),
    (('--only=(',), "--only='(' is not a regular expression"),
    (('--budget=8',), "--budget='8' must be a duration such as 90s, 8m"),
    (('--pretrained=nowhere',), 'Name the file resnet8-digits.safetensors, or'),
    (('--study=none.py',), 'There is no study none.py'),
  ],
)
def test_study_user_error_prints_only_message(folder, tmp_path, more, message):
  status, out = finish(start(folder, tmp_path / 'run', *more))
  assert status == 1
  assert message in out
  assert 'Traceback' not in out
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('text', 'want'),
  [('90s', 90), ('8m', 480), ('2h', 7200), ('1h30m', 5400), ('1h1m1s', 3661)],
)
def test_seconds_duration_is_parsed(text, want):
  assert study_run.seconds(text) == want


@pytest.mark.parametrize('text', ['', '8', 'm', '1.5h', '30m1h', '-1m'])
def test_seconds_invalid_duration_raises(text):
  with pytest.raises(errors.InvalidError, match='must be a duration'):
    study_run.seconds(text)


def test_base_models_that_are_only_listed_need_no_file(tmp_path):
  configs = [resnet18.get_config()]
  with pytest.raises(
    errors.MissingError, match=r'Name the file resnet18-imagenet\.safetensors,'
  ):
    study_run.base_models(configs, str(tmp_path), tmp_path)
  study_run.base_models(configs, str(tmp_path), tmp_path, must_exist=False)
  expected = tmp_path / 'resnet18-imagenet.safetensors'
  assert configs[0].pretrained == str(expected)


def test_base_models_are_found_by_name_in_folder(tmp_path):
  table = spec.load_all()['table1']
  configs = [
    table.settings[f'{net}-bwn-sgd-ste'] for net in ('resnet20', 'resnet32')
  ]
  ours = tmp_path / 'resnet20-cifar10.safetensors'
  theirs = tmp_path / 'MetaQuant-ResNet32-CIFAR10.safetensors'
  ours.touch()
  with pytest.raises(errors.MissingError, match='resnet32-cifar10'):
    study_run.base_models(configs, str(tmp_path), tmp_path)
  for path in (theirs.with_suffix('.pth'), theirs):
    path.touch()
    assert study_run.base_models(configs, str(tmp_path), tmp_path) == {}
    assert [c.pretrained for c in configs] == [str(ours), str(path)]
    for config in configs:
      config.pretrained = ''
  bases = study_run.base_models(configs, '', tmp_path / 'work')
  assert list(bases) == [
    str(tmp_path / 'work' / 'base' / f'{net}-cifar10')
    for net in ('resnet20', 'resnet32')
  ]
  base = bases[configs[0].pretrained.removesuffix('/model.safetensors')]
  assert (base.quantizer, base.network) == ('none', 'resnet20')
  for config in configs:
    config.pretrained = ''
  changed = configs[0].copy_and_resolve_references()
  changed.batch_size = 64
  with pytest.raises(errors.InvalidError, match='need different base models'):
    study_run.base_models([configs[0], changed], '', tmp_path)


def test_base_models_pretrained_of_setting_is_kept(tmp_path):
  named, full = (
    spec.in_protocol('fair', **changes)
    for changes in (
      {'pretrained': str(tmp_path / 'own.safetensors')},
      {'quantizer': 'none', 'estimator': 'ste'},
    )
  )
  with pytest.raises(errors.MissingError, match=r'own\.safetensors.*no such'):
    study_run.base_models([named], '', tmp_path)
  (tmp_path / 'own.safetensors').touch()
  for folder in ('', str(tmp_path)):
    assert study_run.base_models([named, full], folder, tmp_path) == {}
  assert named.pretrained == str(tmp_path / 'own.safetensors')
  scratch = spec.in_protocol('fair', pretrain_epochs=0)
  assert study_run.base_models([scratch], '', tmp_path) == {}
  assert scratch.pretrained == ''
  assert full.pretrained == ''  # from random weights


def test_select_settings_quantize_only_keeps_zero_epochs():
  methods = spec.load_all()['methods']
  for name in ('aciq', 'lsq', 'ttq'):
    methods.settings[name].epochs *= 9
  methods.settings['lsq'].epochs = 3
  chosen = study_run.select_settings(methods, '^(aciq|lsq|ttq)$', 7, '/data')
  assert {name: config.epochs for name, config in chosen.items()} == {
    'aciq': 0,
    'lsq': 3,
    'ttq': 7,
  }


def test_select_settings_refuses_to_shorten_a_schedule_over_the_run():
  study = spec.load_all()['best_1bit']
  before = {name: config.epochs for name, config in study.settings.items()}
  with pytest.raises(
    errors.InvalidError, match=r'another protocol(.|\n)*best_1bit-30'
  ):
    study_run.select_settings(study, '', 7, '')
  after = {name: config.epochs for name, config in study.settings.items()}
  assert after == before
  chosen = study_run.select_settings(study, 'released', 7, '')
  assert max(config.epochs for config in chosen.values()) == 7
