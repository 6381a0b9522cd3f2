"""Tests which jobs are submitted, and complete jobs on this machine."""

import contextlib
import functools
import os
import pathlib
import signal
import types

import pytest

# Its first import closes the streams of log handlers. Those of a captured test
# are the streams of pytest.
import submitit  # noqa: F401

from experiments import training
from experiments.common.errors import BusyError, InvalidError, MissingError
from experiments.records import ledger
from experiments.records.workdir import CHECKPOINTS
from experiments.study import cluster, job, launch, plan, queued, run
from tests.experiments import tiny

TRIALS = 2


def make_tasks(tmp_path, base='', trials=TRIALS):
  """Returns the jobs of a study of one setting, and its base models."""
  settings = {'ste': tiny.config(estimator='ste', pretrained=base)}
  bases = run.base_models([*settings.values()], '', tmp_path)
  results = tmp_path / 'results'
  missing = functools.partial(
    *(plan.missing, 'tiny', settings, trials, results, tmp_path),
    together=False,
  )
  return launch.tasks(missing, bases, results)


def options(tmp_path, kind=cluster.SLURM, jobs=2):
  return launch.Options(kind, jobs, {}, 'tiny', tmp_path)


def test_parse_values_keep_commas_and_types():
  text = 'timeout_min=240, mem_gb=1.5,slurm_exclude=n1,n2,slurm_setup=["a=b"]'
  assert cluster.parse(text) == {
    'timeout_min': 240,
    'mem_gb': 1.5,
    'slurm_exclude': 'n1,n2',
    'slurm_setup': ['a=b'],
  }
  assert cluster.parse('') == {}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('timeout_min', "the part 'timeout_min'. Each part must be NAME=VALUE"),
    ('mem_gb=', "the part 'mem_gb='"),
    ('mem_gb=1,mem_gb=2', 'mem_gb twice'),
    ('nodes=2', 'cannot set nodes: a run of a study is one process'),
    ('slurm_array_parallelism=2', 'use --launch_jobs'),
  ],
)
def test_parse_invalid_text_raises(text, message):
  with pytest.raises(InvalidError, match=message):
    cluster.parse(text)


@pytest.mark.parametrize(
  ('parameters', 'message'),
  [
    ({'timeout': 3}, "'timeout' need to be prefixed"),
    ({'slurm_speed': 3}, "Unknown argument 'speed'"),
    ({'timeout_min': '4h'}, '"timeout_min" expected type'),
  ],
)
def test_make_executor_invalid_parameter_raises(tmp_path, parameters, message):
  with pytest.raises(InvalidError, match=message):
    cluster.make_executor(
      *(cluster.LOCAL, tmp_path, parameters), jobs=1, name='tiny'
    )


def test_make_executor_without_slurm_raises(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(MissingError, match='needs the commands of SLURM'):
    cluster.make_executor(cluster.SLURM, tmp_path, {}, jobs=1, name='tiny')


def test_make_executor_slurm_script_has_limits_and_dependency(
  tmp_path, monkeypatch
):
  srun = tmp_path / 'srun'
  srun.touch(0o755)
  monkeypatch.setenv('PATH', str(tmp_path))
  executor = cluster.make_executor(
    *(cluster.SLURM, tmp_path, {'timeout_min': 8, 'gpus_per_node': 0}),
    jobs=3,
    name='tiny',
    after=('7', '8_1'),
  )
  script = executor._executor._make_submission_file_text('command', 'id')
  lines = script.splitlines()
  for line in ('time=8', 'signal=USR2@120', 'requeue', 'mem=32GB'):
    assert f'#SBATCH --{line}' in lines
  assert '#SBATCH --dependency=afterok:7:8_1' in lines
  assert 'gpus' not in script
  assert executor._executor.parameters['array_parallelism'] == 3


def test_check_submitit_missing_names_extra(monkeypatch):
  monkeypatch.setattr(cluster.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(MissingError, match=r"'\.\[experiments,cluster\]'"):
    cluster.check_submitit()


def test_tasks_base_model_comes_first_and_running_run_is_left_out(tmp_path):
  first, rest = make_tasks(tmp_path)
  assert [task.name for task in first] == ['base resnet8-digits']
  assert [task.name for task in rest] == [
    f'tiny-ste-2epochs-seed{seed}' for seed in (0, 1)
  ]
  assert all(task.bases == first[0].bases for task in rest)
  assert not any(task.is_done() for task in [*first, *rest])


@pytest.fixture
def slurm(monkeypatch):
  """Replaces SLURM; returns its states by job, and its submissions."""
  states, submissions = {}, []

  def make_executor(kind, logs, parameters, *, jobs, name, after):
    def map_array(function, tasks):
      number = len(submissions) + 1
      numbers = [f'{number}_{i}' for i in range(len(tasks))]
      submissions.append(([task.name for task in tasks], after))
      states.update(dict.fromkeys(numbers, 'PENDING'))
      return [types.SimpleNamespace(job_id=number) for number in numbers]

    return types.SimpleNamespace(map_array=map_array)

  monkeypatch.setattr(cluster, 'make_executor', make_executor)
  monkeypatch.setattr(queued, '_states', lambda: states)
  return types.SimpleNamespace(states=states, submissions=submissions)


def test_launch_slurm_again_submits_only_what_is_gone(tmp_path, slurm, capsys):
  base, runs = ['base resnet8-digits'], ['seed0', 'seed1']
  runs = [f'tiny-ste-2epochs-{seed}' for seed in runs]
  launch.launch_slurm(options(tmp_path), *make_tasks(tmp_path))
  assert slurm.submissions == [(base, ()), (runs, ('1_0',))]
  assert 'Submitted runs: 2_0 to 2_1, after 1_0.' in capsys.readouterr().out
  launch.launch_slurm(options(tmp_path), *make_tasks(tmp_path))
  assert len(slurm.submissions) == 2
  assert (
    '3 jobs of this study are already in the queue' in capsys.readouterr().out
  )
  del slurm.states['2_1']  # It died without a trace.
  launch.launch_slurm(options(tmp_path), *make_tasks(tmp_path))
  assert slurm.submissions[2:] == [(runs[1:], ('1_0',))]
  slurm.states.clear()
  launch.launch_slurm(options(tmp_path), *make_tasks(tmp_path))
  assert slurm.submissions[3:] == [(base, ()), (runs, ('4_0',))]


def test_launch_slurm_half_a_record_is_ignored(tmp_path, slurm):
  path = tmp_path / queued.FOLDER / 'submitted.jsonl'
  path.parent.mkdir()
  path.write_text('{"run": "runs/a", "job": "9"}\n{"run": "ru')
  slurm.states['9'] = 'RUNNING'
  assert queued.in_queue(tmp_path) == {
    tmp_path / 'runs/a': queued.Queued('9', 'RUNNING')
  }


def test_launch_slurm_two_at_once_raises(tmp_path, slurm):
  with launch._lock(tmp_path), pytest.raises(BusyError, match='is submitting'):
    launch.launch_slurm(options(tmp_path), *make_tasks(tmp_path))


def test_in_queue_without_slurm_raises_only_after_a_launch(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert queued.in_queue(tmp_path) == {}
  queued.record(tmp_path, {tmp_path / 'runs/a': '9'})
  with pytest.raises(MissingError, match='squeue cannot be run'):
    queued.in_queue(tmp_path)


def test_slot_gpus_each_slot_has_its_own(monkeypatch):
  def gpus(slot, jobs=2, **parameters):
    return cluster.slot_gpus(parameters, jobs, slot)

  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  assert gpus(1) == (1,)
  assert gpus(1, gpus_per_node=2) == (2, 3)
  assert gpus(1, gpus_per_node=0) == ()
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
  assert gpus(1) == (6,)
  with pytest.raises(InvalidError, match='Use fewer jobs'):
    gpus(0, jobs=3)


@pytest.fixture
def stopped_job(tmp_path, monkeypatch):
  """Returns a function that runs the first task, and sends it a signal.

  SLURM gives the job a state, and the commands that the job calls are returned
  with its exit status.
  """
  tiny.put_in(monkeypatch)
  base = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  monkeypatch.setenv('SLURM_JOB_ID', '5')
  monkeypatch.delenv('SUBMITIT_EXECUTOR', raising=False)
  monkeypatch.setattr(job.runtime, 'configure', lambda: None)

  def call(number=None, state='RUNNING', at_step=3):
    commands = []

    def output(*command):
      commands.append(command[0])
      return state if command[0] == 'squeue' else ''

    def update(step, **numbers):
      if number and step >= at_step and not sent:
        sent.append(number)
        signal.raise_signal(number)

    @contextlib.contextmanager
    def show(total, start, description, **more):
      yield training.progress.Bar(
        update, lambda **numbers: None, lambda text: None
      )

    @contextlib.contextmanager
    def open_display(total):
      yield job.display.Display(lambda done, name: show, lambda text: None)

    sent = []
    monkeypatch.setattr(job.display, 'open_display', open_display)
    monkeypatch.setattr(job, '_output', output)
    task = make_tasks(tmp_path, base, trials=1)[1][0]
    status = 0
    try:
      job.run_task(task)
    except SystemExit as error:
      status = error.code
    return status, commands

  return call


def test_run_task_time_limit_saves_and_job_is_put_back(tmp_path, stopped_job):
  handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)]
  assert stopped_job(signal.SIGUSR2) == (143, ['squeue', 'scontrol'])
  (task,) = make_tasks(tmp_path, str(tmp_path / 'base.safetensors'), 1)[1]
  saved = (task.folder / CHECKPOINTS).glob('*')
  assert max(int(path.name) for path in saved) == 3
  assert ledger.read(tmp_path / 'results') == []
  # The next life of the job resumes, and ends the run.
  assert stopped_job() == (0, [])
  (entry,) = ledger.read(tmp_path / 'results')
  assert entry.name == 'tiny-ste-2epochs-seed0'
  assert [r['epoch'] for r in entry.records] == [1, 2]
  assert handlers == [
    signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)
  ]
  # Another job of the same run ends at once.
  job.run_task(task)
  assert ledger.read(tmp_path / 'results') == [entry]


def test_run_task_job_that_slurm_has_ended_is_not_put_back(stopped_job):
  assert stopped_job(signal.SIGTERM, 'COMPLETING') == (143, ['squeue'])


def test_run_task_that_never_saves_is_put_back_three_times(
  monkeypatch, capsys, stopped_job
):
  save = training.loop._save
  monkeypatch.setattr(training.loop, '_save', lambda *args: None)
  for _ in range(3):
    assert stopped_job(signal.SIGUSR2) == (143, ['squeue', 'scontrol'])
  assert stopped_job(signal.SIGUSR2) == (143, ['squeue'])
  assert 'has stopped 4 times in a row' in capsys.readouterr().out
  # The next launch counts from 0, and each checkpoint sets the count to 0.
  assert stopped_job(signal.SIGUSR2) == (143, ['squeue', 'scontrol'])
  monkeypatch.setattr(training.loop, '_save', save)
  for _ in range(5):
    assert stopped_job(signal.SIGUSR2) == (143, ['squeue', 'scontrol'])


def run_tiny_task(task):
  """Runs a task with the tiny network; seed 0 is killed in its first life."""
  tiny.put_in(pytest.MonkeyPatch())
  save = training.loop._save

  def save_and_die(*args):
    save(*args)
    os.kill(os.getpid(), signal.SIGKILL)

  if task.folder.name.endswith('seed0') and not task.folder.exists():
    training.loop._save = save_and_die
  job.run_task(task)


@pytest.mark.slow
def test_launch_local_killed_job_is_resumed_and_no_run_twice(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(launch, 'run_task', run_tiny_task)
  tiny.put_in(monkeypatch)
  base = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  at = options(tmp_path, cluster.LOCAL)
  first, rest = make_tasks(tmp_path, base)
  assert (first, len(rest)) == ([], 2)
  launch.launch_local(at, first, rest)
  out = capsys.readouterr().out
  assert 'Done: tiny-ste-2epochs-seed1.' in out
  assert 'Not done: tiny-ste-2epochs-seed0. See ' in out
  names = [entry.name for entry in ledger.read(tmp_path / 'results')]
  assert names == ['tiny-ste-2epochs-seed1']
  (killed,) = make_tasks(tmp_path, base)[1]
  assert (killed.folder / CHECKPOINTS).exists()
  launch.launch_local(at, [], [killed])
  logs = [p.read_text() for p in (tmp_path / 'launch/logs').glob('*.out')]
  assert sum('The run resumes from step' in log for log in logs) == 1
  assert make_tasks(tmp_path, base) == ([], [])
  entries = {e.name: e for e in ledger.read(tmp_path / 'results')}
  assert sorted(entries) == [f'tiny-ste-2epochs-seed{i}' for i in (0, 1)]
  config = killed_config(killed)
  training.train_and_evaluate(config, tmp_path / 'alone')
  assert tiny.end_of_run(config, killed.folder) == tiny.end_of_run(
    config, tmp_path / 'alone'
  )


def killed_config(task):
  """Returns the configuration of the run of a task, which may be done."""
  missing = functools.partial(
    *(task.missing.func, *task.missing.args[:3], pathlib.Path('none')),
    *task.missing.args[4:],
    **task.missing.keywords,
  )
  return next(j.config for j in missing() if j.workdir == task.folder)
