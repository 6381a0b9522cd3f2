"""Tests which runs are missing, and that only one process claims each run."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from experiments.common.errors import InvalidError, UnwritableError
from experiments.configs import gpt
from experiments.data.text import text_digest
from experiments.records import ledger, model_file
from experiments.study import plan as study_plan
from experiments.study import spec
from tests.experiments import ledgers


def make_study(**changes):
  return {
    name: spec.in_protocol('fair', epochs=2, **changes, **keys)
    for name, keys in {
      'ste': {'estimator': 'ste'},
      'fc': {'estimator': 'fc_grad'},
    }.items()
  }


def names(planned):
  return [job.name for job in planned]


def plan(tmp_path, trials=2, together=False, study=None):
  return study_plan.jobs(
    'mine',
    study or make_study(),
    trials,
    ledger.read(tmp_path / 'results'),
    tmp_path,
    together=together,
  )


def test_jobs_run_in_ledger_is_not_planned(tmp_path):
  assert names(plan(tmp_path)) == [
    f'mine-{name}-2epochs-seed{seed}'
    for name in ('ste', 'fc')
    for seed in (0, 1)
  ]
  config = make_study()['fc'].to_dict()
  # The run has another name, and a third trial that the study does not need.
  ledgers.write(
    tmp_path / 'results', 'any', config | {'seed': 1}, [[1.0, 2.0], [3.0, 4.0]]
  )
  ledgers.write(tmp_path / 'results', 'long', config, [1.0, 2.0, 3.0])
  assert names(plan(tmp_path)) == [
    'mine-ste-2epochs-seed0',
    'mine-ste-2epochs-seed1',
    'mine-fc-2epochs-seed0',
  ]
  (job,) = plan(tmp_path)[2:]
  assert (job.config.seed, job.config.trials) == (0, 1)
  assert job.workdir.parent == tmp_path / 'runs'


def test_jobs_base_model_saved_again_keeps_run(tmp_path):
  study = make_study()
  base = tmp_path / 'base.safetensors'
  for config in study.values():
    config.pretrained = str(base)
  config = study['fc'].to_dict() | {'pretrained': 'base.safetensors'}
  model_file.save_model(base, {'w': np.ones(2)}, {}, {'accuracy': '91'})
  start = {'base': model_file.digest(base)}
  ledgers.write(tmp_path / 'results', 'a', config, [1.0, 2.0], start=start)
  assert len(plan(tmp_path, study=study, trials=1)) == 1
  model_file.save_model(base, {'w': np.ones(2)}, {}, {'comment': 'again'})
  assert len(plan(tmp_path, study=study, trials=1)) == 1
  model_file.save_model(base, {'w': np.zeros(2)}, {}, {'accuracy': '91'})
  assert len(plan(tmp_path, study=study, trials=1)) == 2


def test_done_seeds_many_runs_read_base_model_once(tmp_path, monkeypatch):
  base = tmp_path / 'base.safetensors'
  model_file.save_model(base, {'w': np.ones(2)}, {}, {})
  config = make_study()['fc'].to_dict() | {'pretrained': str(base)}
  start = {'base': model_file.digest(base)}
  for seed in range(3):
    ledgers.write(
      tmp_path, f'{seed}', config | {'seed': seed}, [1.0, 2.0], start=start
    )
  reads = []

  def read_arrays(path, read=model_file.read_arrays):
    reads.append(path)
    return read(path)

  monkeypatch.setattr(model_file, 'read_arrays', read_arrays)
  runs = ledger.read(tmp_path)
  digests = study_plan.data_digests()
  assert study_plan.done_seeds(config, runs, digests) == {0, 1, 2}
  assert reads == [base]


def test_jobs_diverged_run_is_done(tmp_path):
  config = make_study()['fc'].to_dict()
  ledgers.write(tmp_path / 'results', 'a', config, [], diverged='at step 3')
  assert len(plan(tmp_path, trials=1)) == 1


def test_jobs_other_base_model_is_another_run(tmp_path):
  study = make_study()
  base = tmp_path / 'base.pth'
  for config in study.values():
    config.pretrained = str(base)
  config = study['fc'].to_dict() | {'pretrained': 'base.pth'}
  results = tmp_path / 'results'
  ledgers.write(results, 'a', config, [1.0, 2.0], start={'base': '0' * 16})
  ledgers.write(results, 'b', config | {'seed': 1}, [1.0, 2.0])  # no digest
  assert (
    len(plan(tmp_path, study=study)) == 2
  )  # of ste, because the base model is missing
  base.write_bytes(b'numbers')
  assert names(plan(tmp_path, study=study))[2:] == ['mine-fc-2epochs-seed0']
  start = {'base': model_file.digest(base)}
  ledgers.write(results, 'a', config, [1.0, 2.0], start=start)
  assert len(plan(tmp_path, study=study)) == 2


def text_settings(tmp_path, *texts):
  """Returns settings that differ in the contents of files of one name."""
  settings = {}
  for place, content in enumerate(texts):
    path = tmp_path / f'{place}' / 'text.txt'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    settings[f'text{place}'] = gpt.get_config(data=str(path), epochs=2)
  return settings


def test_jobs_other_text_is_another_run(tmp_path):
  study = text_settings(tmp_path, b'abc')
  config = study['text0'].to_dict() | {'data': 'text.txt'}
  start = {'data': text_digest(np.frombuffer(b'abc', np.uint8))}
  ledgers.write(tmp_path / 'results', 'a', config, [1.0, 2.0], start=start)
  assert not plan(tmp_path, 1, study=study)
  text_settings(tmp_path, b'abd')
  assert names(plan(tmp_path, 1, study=study)) == ['mine-text0-2epochs-seed0']
  # A missing text is not compared, such as on another machine.
  (tmp_path / '0' / 'text.txt').unlink()
  assert not plan(tmp_path, 1, study=study)
  both = text_settings(tmp_path, b'abd', b'abd')
  (tmp_path / '0' / 'text.txt').unlink()
  assert not plan(tmp_path, 1, study=both)


def test_jobs_texts_of_one_name_are_refused(tmp_path):
  same = text_settings(tmp_path, b'abc', b'abc')
  assert len(plan(tmp_path, 1, study=same)) == 1
  with pytest.raises(InvalidError, match=r'text0 and text1 .* different data'):
    plan(tmp_path, 1, study=text_settings(tmp_path, b'abc', b'abd'))


def test_jobs_base_models_of_one_name_are_refused(tmp_path):
  study = make_study()
  study['other'] = study['ste'].copy_and_resolve_references()
  for name, content in (('ste', b'one'), ('other', b'two')):
    path = tmp_path / name / 'base.pth'
    path.parent.mkdir()
    path.write_bytes(content)
    study[name].pretrained = str(path)
  with pytest.raises(InvalidError, match=r'ste and other .* different base mo'):
    plan(tmp_path, 1, study=study)
  path.write_bytes(b'one')
  assert len(plan(tmp_path, 1, study=study)) == 2


def test_jobs_two_names_of_one_configuration_run_once(tmp_path):
  study = make_study()
  study['same'] = study['ste']
  assert names(plan(tmp_path, 1, study=study)) == [
    'mine-ste-2epochs-seed0',
    'mine-fc-2epochs-seed0',
  ]


def test_jobs_together_exclude_begun_and_done_seeds(tmp_path):
  assert names(plan(tmp_path, 5, together=True)) == [
    'mine-ste-2epochs-seeds0to4',
    'mine-fc-2epochs-seeds0to4',
  ]
  config = make_study()['fc'].to_dict()
  ledgers.write(tmp_path / 'results', 'two', config | {'seed': 2}, [1.0, 2.0])
  begun = plan(tmp_path, 2, together=True)[0].workdir
  begun.mkdir(parents=True)
  (begun / 'metrics.jsonl').write_text('{"config": {}}\n')
  planned = plan(tmp_path, 5, together=True)
  assert names(planned) == [
    'mine-ste-2epochs-seeds0to1',
    'mine-ste-2epochs-seeds2to4',
    'mine-fc-2epochs-seeds0to1',
    'mine-fc-2epochs-seeds3to4',
  ]
  assert [job.config.trials for job in planned] == [2, 3, 2, 2]
  assert study_plan.status(planned[0]) == (study_plan.BEGUN, 0)
  assert study_plan.status(planned[1]) == (study_plan.MISSING, 0)


def test_jobs_together_run_random_last_layers_alone(tmp_path):
  base = tmp_path / 'base.pth'
  base.write_bytes(b'numbers')
  study = make_study(pretrained=str(base), new_head=True)
  planned = plan(tmp_path, study={'new': study['ste']}, together=True)
  assert [job.config.trials for job in planned] == [1, 1]


def test_jobs_begun_group_keeps_its_seeds(tmp_path):
  begun = plan(tmp_path, 5, together=True)[0]
  begun.workdir.mkdir(parents=True)
  (begun.workdir / 'metrics.jsonl').write_text('{"config": {}}\n')
  assert names(plan(tmp_path, 2, together=True))[0] == begun.name
  # The file of the study has changed since, so this is another run.
  changed = make_study(hidden=7, learning_rate=0.5)
  planned = plan(tmp_path, 2, together=True, study=changed)
  assert names(planned)[0] == 'mine-ste-2epochs-seeds0to1'
  assert not planned[0].workdir.exists()


def test_run_seeds_alone_gives_one_run_per_seed(tmp_path):
  job = plan(tmp_path, 3, together=True)[0]
  job.workdir.mkdir(parents=True)
  (job.workdir / 'metrics.jsonl').write_text('{"config": {}}\n')
  assert names(plan(tmp_path, 3, together=True))[0] == job.name
  study_plan.run_seeds_alone(job)
  assert names(plan(tmp_path, 4, together=True))[:4] == [
    f'mine-ste-2epochs-seed{seed}' for seed in range(4)
  ]


@pytest.mark.slow
def test_claim_run_of_killed_process_ends(tmp_path):
  job = plan(tmp_path)[0]
  program = f"""
import sys
from experiments.study import plan as study_plan
from tests.experiments.study.test_plan import plan
import pathlib
first = plan(pathlib.Path({str(tmp_path)!r}))[0]
with study_plan.claim_run(first.workdir) as is_claimed:
  print(is_claimed, flush=True)
  sys.stdin.read()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as other:
    assert other.stdout.readline() == 'True\n'
    with study_plan.claim_run(job.workdir) as is_claimed:
      assert not is_claimed
    assert study_plan.status(job)[0] == study_plan.RUNNING
    assert study_plan.status(plan(tmp_path)[1])[0] == study_plan.MISSING
    other.kill()
    other.wait(60)
  with study_plan.claim_run(job.workdir) as is_claimed:
    assert is_claimed


def test_claim_run_error_ends_claim(tmp_path):
  job = plan(tmp_path)[0]
  with pytest.raises(KeyError), study_plan.claim_run(job.workdir):
    raise KeyError
  with study_plan.claim_run(job.workdir) as is_claimed:
    assert is_claimed


def test_claim_run_file_system_without_locks_raises(tmp_path, monkeypatch):
  def flock(file, operation):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(study_plan.files.fcntl, 'flock', flock)
  claim = study_plan.claim_run(plan(tmp_path)[0].workdir)
  with pytest.raises(UnwritableError, match='cannot be locked: No locks'):
    claim.__enter__()


@pytest.mark.slow
def test_status_in_a_loop_never_blocks_claim(tmp_path):
  """Tests that claims succeed while another process lists runs in a loop."""
  job = plan(tmp_path)[0]
  with study_plan.claim_run(job.workdir):
    pass
  program = f"""
from tests.experiments.study.test_plan import plan, study_plan
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
      with study_plan.claim_run(job.workdir) as is_claimed:
        assert is_claimed
    other.kill()
