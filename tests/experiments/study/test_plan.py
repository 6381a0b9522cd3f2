"""What is left of a study, and who has it."""

import subprocess
import sys

import pytest

from experiments.records import ledger, model_file
from experiments.study import plan as study_plan
from experiments.study import spec
from tests.experiments import ledgers


def a_study(**changes):
  return {
    name: spec.in_protocol('fair', epochs=2, **changes, **own)
    for name, own in {
      'ste': {'estimator': 'ste'},
      'fc': {'estimator': 'fc_grad'},
    }.items()
  }


def names(planned):
  return [job.name for job in planned]


def plan(tmp_path, trials=2, together=False, study=None):
  return study_plan.jobs(
    'mine',
    study or a_study(),
    trials,
    ledger.read(tmp_path / 'results'),
    tmp_path,
    together=together,
  )


def test_what_the_ledger_has_is_not_planned(tmp_path):
  assert names(plan(tmp_path)) == [
    f'mine-{name}-2epochs-seed{seed}'
    for name in ('ste', 'fc')
    for seed in (0, 1)
  ]
  config = a_study()['fc'].to_dict()
  # By another name, and with a third trial that nobody asked for.
  ledgers.write(
    tmp_path / 'results', 'any', config | {'seed': 1}, [[1.0, 2.0], [3.0, 4.0]]
  )
  ledgers.write(tmp_path / 'results', 'long', config, [1.0, 2.0, 3.0])
  assert names(plan(tmp_path)) == [
    'mine-ste-2epochs-seed0', 'mine-ste-2epochs-seed1', 'mine-fc-2epochs-seed0'
  ]  # fmt: skip
  (job,) = plan(tmp_path)[2:]
  assert (job.config.seed, job.config.trials) == (0, 1)
  assert job.workdir.parent == tmp_path / 'runs'


def test_a_diverged_run_is_done(tmp_path):
  config = a_study()['fc'].to_dict()
  ledgers.write(tmp_path / 'results', 'a', config, [], diverged='at step 3')
  assert len(plan(tmp_path, trials=1)) == 1


def test_runs_from_another_base_model_are_other_runs(tmp_path):
  study = a_study()
  base = tmp_path / 'base.pth'
  for config in study.values():
    config.pretrained = str(base)
  own = study['fc'].to_dict() | {'pretrained': 'base.pth'}
  results = tmp_path / 'results'
  ledgers.write(results, 'a', own, [1.0, 2.0], start={'base': '0' * 16})
  ledgers.write(results, 'b', own | {'seed': 1}, [1.0, 2.0])  # before digests
  assert len(plan(tmp_path, study=study)) == 2  # of ste; no base is there yet
  base.write_bytes(b'numbers')
  assert names(plan(tmp_path, study=study))[2:] == ['mine-fc-2epochs-seed0']
  start = {'base': model_file.digest(base)}
  ledgers.write(results, 'a', own, [1.0, 2.0], start=start)
  assert len(plan(tmp_path, study=study)) == 2


def test_one_configuration_under_two_names_runs_once(tmp_path):
  study = a_study()
  study['same'] = study['ste']
  assert names(plan(tmp_path, 1, study=study)) == [
    'mine-ste-2epochs-seed0', 'mine-fc-2epochs-seed0'
  ]  # fmt: skip


def test_trials_together_but_for_those_begun_and_done(tmp_path):
  assert names(plan(tmp_path, 5, together=True)) == [
    'mine-ste-2epochs-seeds0to4', 'mine-fc-2epochs-seeds0to4'
  ]  # fmt: skip
  config = a_study()['fc'].to_dict()
  ledgers.write(tmp_path / 'results', 'two', config | {'seed': 2}, [1.0, 2.0])
  begun = plan(tmp_path, 2, together=True)[0].workdir
  begun.mkdir(parents=True)
  (begun / 'metrics.jsonl').write_text('{"config": {}}\n')
  planned = plan(tmp_path, 5, together=True)
  assert names(planned) == [
    'mine-ste-2epochs-seeds0to1', 'mine-ste-2epochs-seeds2to4',
    'mine-fc-2epochs-seeds0to1', 'mine-fc-2epochs-seeds3to4',
  ]  # fmt: skip
  assert [job.config.trials for job in planned] == [2, 3, 2, 2]
  assert study_plan.status(planned[0]) == (study_plan.BEGUN, 0)
  assert study_plan.status(planned[1]) == (study_plan.MISSING, 0)


def test_a_group_that_was_begun_goes_on_though_fewer_are_wanted(tmp_path):
  begun = plan(tmp_path, 5, together=True)[0]
  begun.workdir.mkdir(parents=True)
  (begun.workdir / 'metrics.jsonl').write_text('{"config": {}}\n')
  assert names(plan(tmp_path, 2, together=True))[0] == begun.name
  # What the study's file made of that name before is another run.
  changed = a_study(hidden=7, learning_rate=0.5)
  planned = plan(tmp_path, 2, together=True, study=changed)
  assert names(planned)[0] == 'mine-ste-2epochs-seeds0to1'
  assert not planned[0].workdir.exists()


def test_of_seeds_of_which_one_diverged_each_runs_alone(tmp_path):
  job = plan(tmp_path, 3, together=True)[0]
  job.workdir.mkdir(parents=True)
  (job.workdir / 'metrics.jsonl').write_text('{"config": {}}\n')
  assert names(plan(tmp_path, 3, together=True))[0] == job.name
  study_plan.take_apart(job)
  assert names(plan(tmp_path, 4, together=True))[:4] == [
    f'mine-ste-2epochs-seed{seed}' for seed in range(4)
  ]


def test_a_claim_is_held_by_one_process_and_ends_with_it(tmp_path):
  job = plan(tmp_path)[0]
  program = f"""
import sys
from experiments import settings, study_plan
from tests.experiments.test_study_plan import plan
import pathlib
first = plan(pathlib.Path({str(tmp_path)!r}))[0]
with study_plan.claimed(first.workdir) as mine:
  print(mine, flush=True)
  sys.stdin.read()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == 'True\n'
    with study_plan.claimed(job.workdir) as mine:
      assert not mine
    assert study_plan.status(job)[0] == study_plan.RUNNING
    assert study_plan.status(plan(tmp_path)[1])[0] == study_plan.MISSING
    other.kill()
    other.wait(60)
  with study_plan.claimed(job.workdir) as mine:
    assert mine


def test_an_error_within_a_claim_ends_it(tmp_path):
  job = plan(tmp_path)[0]
  with pytest.raises(KeyError), study_plan.claimed(job.workdir):
    raise KeyError
  with study_plan.claimed(job.workdir) as mine:
    assert mine


def test_looking_takes_no_claim_from_who_wants_it(tmp_path):
  """Another process that lists all the while never has a run for itself."""
  job = plan(tmp_path)[0]
  with study_plan.claimed(job.workdir):
    pass
  program = f"""
from tests.experiments.test_study_plan import plan, study_plan
import pathlib
job = plan(pathlib.Path({str(tmp_path)!r}))[0]
print(flush=True)
while True:
  study_plan.status(job)
"""
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  ) as other:
    assert other.stdout.readline() == '\n'
    for _ in range(50):
      with study_plan.claimed(job.workdir) as mine:
        assert mine
    other.kill()
