"""Whole studies by real processes: killed, sliced, shared."""

import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

from experiments import errors, ledger, settings, study
from tests.experiments import tiny

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 300
STUDY = """
from experiments.settings import Study, in_protocol

def get_study():
  return Study('Tiny', {
    estimator: in_protocol(
      'fair', network='resnet8', dataset='digits', estimator=estimator,
      batch_size=256, epochs=3, pretrain_epochs=1, learning_rate=alpha,
      checkpoint_every=2, chunk=1, hidden=3)
    for estimator, alpha in (('ste', 1e-2), ('fc_grad', 1e-2))}, trials=2)
"""
# The command itself, but for the network.
PROGRAM = """
import runpy
from experiments import build
from tests.experiments import tiny
build.network = lambda config, num_classes: tiny.Net(num_classes)
runpy.run_module('experiments.study', run_name='__main__', alter_sys=True)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Holds the study file and what its programs compile."""
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
      *(sys.executable, '-c', PROGRAM),
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
  """Records by name, without what differs from run to run."""
  return {
    run.name: tiny.timeless(run.records)
    for run in ledger.read(workdir / 'results')
  }


@pytest.fixture(scope='module')
def reference(folder):
  """The study, undisturbed."""
  workdir = folder / 'whole'
  status, out = finish(start(folder, workdir))
  assert status == 0, out
  assert '4 of 4 trials are done.' in out
  assert f'All runs are in {workdir}' in out
  return workdir


def test_a_study_runs_each_trial_once(reference):
  runs = measured(reference)
  assert list(runs) == [
    f'tiny-{name}-3epochs-seed{seed}'
    for name in ('fc_grad', 'ste')
    for seed in (0, 1)
  ]
  assert all(len(records) == 3 for records in runs.values())
  first, second = (runs[f'tiny-fc_grad-3epochs-seed{i}'] for i in (0, 1))
  assert first != second
  # One base model for all of them.
  bases = {
    run.header['start']['full_precision_accuracy']
    for run in ledger.read(reference / 'results')
  }
  assert len(bases) == 1
  assert len(list((reference / 'base').glob('*/metrics.jsonl'))) == 1


def test_a_finished_study_is_only_read(folder, reference):
  stamps = {p: p.stat().st_mtime_ns for p in reference.rglob('*.jsonl')}
  status, out = finish(start(folder, reference))
  assert status == 0, out
  assert out.count('4 of 4 trials are done.') == 1
  assert {p: p.stat().st_mtime_ns for p in reference.rglob('*.jsonl')} == stamps


def test_killed_at_any_moment_it_counts_nothing_twice(folder, reference):
  workdir = folder / 'killed'
  moments = []
  for _ in range(20):
    process = start(folder, workdir)
    moments.append(random.uniform(4, 12))
    try:
      process.wait(moments[-1])
    except subprocess.TimeoutExpired:
      process.kill()
    _, out = finish(process)
    for run in ledger.read(workdir / 'results'):
      assert len(run.records) == 3, moments  # whole or not at all
    if process.returncode == 0:
      break
  else:
    status, out = finish(start(folder, workdir))
    assert status == 0, (moments, out)
  assert len(moments) > 1, 'it was never killed'
  assert measured(workdir) == measured(reference), moments


def test_in_slices_and_by_two_processes_at_once(folder, reference):
  workdir = folder / 'sliced'
  status, out = finish(start(folder, workdir, '--list'))
  assert status == 0, out
  assert '0 of 4 trials are done.' in out
  assert not workdir.exists()
  status, out = finish(start(folder, workdir, '--budget=1s'))
  assert status == 0, out
  assert '4 runs are left; the same command goes on.' in out
  both = [start(folder, workdir) for _ in range(2)]
  told = [finish(process) for process in both]
  assert [status for status, _ in told] == [0, 0], told
  # Whoever came second left what the first had, and may have been done sooner.
  status, out = finish(start(folder, workdir))
  assert status == 0, out
  assert measured(workdir) == measured(reference)


def test_a_run_that_diverges_is_a_result(folder):
  workdir = folder / 'diverging'
  wild = folder / 'wild.py'
  wild.write_text(STUDY.replace("('ste', 1e-2), ", "('ste', 3e38), "))
  status, out = finish(start(folder, workdir, f'--study={wild}', '--trials=1'))
  assert status == 0, out
  runs = {run.name: run for run in ledger.read(workdir / 'results')}
  assert runs['wild-fc_grad-3epochs-seed0'].header.get('diverged') is None
  gone = runs['wild-ste-3epochs-seed0']
  assert 'not finite at step 1' in gone.header['diverged']
  assert gone.records == []


def test_a_signal_saves_and_leaves(folder):
  workdir = folder / 'stopped'
  process = start(folder, workdir, '--trials=1', '--only=fc_grad')
  log = workdir / 'runs' / 'tiny-fc_grad-3epochs-seed0' / 'metrics.jsonl'
  end = time.monotonic() + SECONDS
  while not log.exists():
    assert process.poll() is None
    assert time.monotonic() < end
    time.sleep(0.01)
  process.terminate()
  status, out = finish(process)
  # Outside of a run the signal acts at once: there is nothing to save.
  assert status in (143, -15, 0), out
  assert 'Traceback' not in out
  status, out = finish(start(folder, workdir, '--trials=1', '--only=fc_grad'))
  assert status == 0, out
  assert '1 of 1 trials are done.' in out


@pytest.mark.parametrize(
  ('more', 'told'),
  [
    (
      ('--only=lstm',),
      "--only='lstm' is found in no name. There are:\n  ste\n",
    ),
    (('--only=(',), "--only='('"),
    (('--budget=8',), "--budget='8' must be a duration such as 90s, 8m"),
    (('--pretrained=nowhere',), 'may be called resnet8-digits.safetensors or'),
    (('--study=none.py',), 'There is no study none.py'),
  ],
)
def test_what_a_person_can_mend_is_told_in_a_line(folder, tmp_path, more, told):
  status, out = finish(start(folder, tmp_path / 'run', *more))
  assert status == 1
  assert told in out
  assert 'Traceback' not in out
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('text', 'want'),
  [('90s', 90), ('8m', 480), ('2h', 7200), ('1h30m', 5400), ('1h1m1s', 3661)],
)
def test_durations(text, want):
  assert study.seconds(text) == want


@pytest.mark.parametrize('text', ['', '8', 'm', '1.5h', '30m1h', '-1m'])
def test_what_is_no_duration(text):
  with pytest.raises(errors.InvalidError, match='must be a duration'):
    study.seconds(text)


def test_base_models_by_the_names_they_may_have(tmp_path):
  table = settings.load_all()['table1']
  configs = [
    table.settings[f'{net}-bwn-sgd-ste'] for net in ('resnet20', 'resnet32')
  ]
  ours = tmp_path / 'resnet20-cifar10.safetensors'
  theirs = tmp_path / 'MetaQuant-ResNet32-CIFAR10.pth'
  ours.touch()
  with pytest.raises(errors.MissingError, match='resnet32-cifar10'):
    study.base_models(configs, str(tmp_path), tmp_path)
  theirs.touch()
  assert study.base_models(configs, str(tmp_path), tmp_path) == {}
  assert [c.pretrained for c in configs] == [str(ours), str(theirs)]
  own = study.base_models(configs, '', tmp_path / 'work')
  assert list(own) == [
    str(tmp_path / 'work' / 'base' / f'{net}-cifar10')
    for net in ('resnet20', 'resnet32')
  ]
  base = own[configs[0].pretrained.removesuffix('/model.safetensors')]
  assert (base.quantizer, base.network) == ('none', 'resnet20')
  changed = configs[0].copy_and_resolve_references()
  changed.batch_size = 64
  with pytest.raises(errors.InvalidError, match='want different base models'):
    study.base_models([configs[0], changed], '', tmp_path)
