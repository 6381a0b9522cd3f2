"""Tests the commands as real processes: killed, stopped, resumed, rejected."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import types

import pytest

from experiments import pretrain
from experiments.build.base_model import FURTHER_LEARNING_RATE, base_config
from experiments.common import errors
from experiments.records import run_log
from experiments.training import TrainingDiverged, command, process_flags
from experiments.training import flags as training_flags
from tests.experiments import tiny

pytestmark = pytest.mark.usefixtures('compilation_cache')
ROOT = pathlib.Path(__file__).parents[2]
# The number of steps per epoch is even, so that runs with other checkpoints sum
# the losses over the same pairs of steps.
STEPS = 350
CHECKPOINT_EVERY = 50
OVERRIDES = {
  'network': 'resnet8',
  'estimator': 'lstm_fc',
  'hidden': 4,
  'optimizer': 'adam',
  'batch_size': 4,
  'epoch_steps': STEPS,
  'epochs': 2,
  'chunk': 2,
}
SECONDS = 300  # limit after which a process counts as hanging


@pytest.fixture
def environment(tmp_path_factory):
  """Returns the environment of processes that share compiled programs."""
  return {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'COLUMNS': '200',
  }


@pytest.fixture
def pretrained(tmp_path):
  return tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))


def arguments(work, *more, program=('-m', 'experiments.cifar'), **overrides):
  """Returns the command line of a run."""
  return [
    sys.executable,
    *program,
    '--config=experiments/configs/digits.py',
    *([f'--workdir={work}'] if work else []),
    *[f'--config.{key}={value}' for key, value in overrides.items()],
    *more,
  ]


def start(args, environment, output=subprocess.PIPE):
  return subprocess.Popen(
    args,
    cwd=ROOT,
    env=environment,
    stdout=output,
    stderr=subprocess.STDOUT if output != subprocess.PIPE else output,
    text=True,
  )


def finish(process):
  """Returns exit status, standard output and standard error of a process."""
  out, err = process.communicate(timeout=SECONDS)
  return process.returncode, out, err


def wait_for(process, condition, event):
  """Waits until a condition holds, while a process runs."""
  end = time.monotonic() + SECONDS
  while not condition():
    assert process.poll() is None, f'The process ended before {event}.'
    assert time.monotonic() < end, f'Timeout before {event}.'
    time.sleep(0.02)


def saved_steps(work):
  """Returns the steps of the complete checkpoints."""
  return sorted(
    int(p.name) for p in work.glob('checkpoints/*') if p.name.isdigit()
  )


def assert_same_run(config, work, other):
  """Asserts that two runs have the same last state, log and model."""
  end = tiny.end_of_run(config, work)
  assert end == tiny.end_of_run(config, other)
  assert end['step'] == config.epochs * STEPS
  for part in ('params', 'phi', 'refine_state', 'estimator_state', 'key'):
    assert any(path.startswith(f'state/{part}') for path in end['state']), part
  assert [r['epoch'] for r in end['records']] == [1, 2]
  assert any(r['flipped']['head/kernel'] > 0 for r in end['records'])


@pytest.mark.slow
@pytest.mark.optimized
def test_cifar_stopped_in_any_way_resumes_bit_for_bit(
  tmp_path, environment, pretrained, monkeypatch
):
  tiny.put_in(monkeypatch)
  config = tiny.config(**OVERRIDES, pretrained=pretrained)
  values = {
    **OVERRIDES,
    'pretrained': pretrained,
    'program': ('-c', tiny.program('experiments.cifar')),
  }
  reference, killed, stopped = (
    tmp_path / name for name in ('reference', 'killed', 'stopped')
  )
  save_often = arguments(killed, checkpoint_every=CHECKPOINT_EVERY, **values)
  # With this command, only a signal causes a save in the middle of an epoch.
  save_rarely = arguments(stopped, checkpoint_every=1000, **values)

  uninterrupted = arguments(
    reference, checkpoint_every=CHECKPOINT_EVERY, **values
  )
  status, shown, error = finish(start(uninterrupted, environment))
  assert status == 0, error

  # kill -9 comes at a random moment after a random checkpoint.
  target, delay = (
    random.randint(1, 2 * STEPS - 6 * CHECKPOINT_EVERY),
    random.uniform(0, 0.2),
  )
  with (tmp_path / 'output').open('w') as output:
    process = start(save_often, environment, output)
    wait_for(
      process,
      lambda: max(saved_steps(killed), default=0) >= target,
      f'a checkpoint of step {target}',
    )
    time.sleep(delay)
    process.kill()
  moment = f'killed {delay} s after a checkpoint of step {target} or later'
  assert process.wait(SECONDS) == -signal.SIGKILL, moment
  assert not (killed / 'quantized.safetensors').exists(), moment
  status, resumed, error = finish(start(save_often, environment))
  assert status == 0, (moment, error)
  config.checkpoint_every = CHECKPOINT_EVERY
  assert_same_run(config, killed, reference)

  def stop(number):
    """Sends a signal once the steps have begun; returns the saved step."""
    with (tmp_path / f'output{number}').open('w') as output:
      process = start(save_rarely, environment, output)
      path = pathlib.Path(output.name)
      wait_for(process, lambda: 'epoch ' in path.read_text(), 'its first steps')
      time.sleep(random.uniform(0, 0.5))
      process.send_signal(number)
    assert process.wait(SECONDS) == 128 + number
    text = path.read_text()
    assert 'Traceback' not in text
    match = re.search(r'Checkpoint saved at step (\d+)\. Rerun the com', text)
    assert int(match[1]) == saved_steps(stopped)[-1]
    return int(match[1])

  first = stop(signal.SIGTERM)
  assert 0 < first < STEPS
  assert stop(signal.SIGINT) > first
  status, _, error = finish(start(save_rarely, environment))
  assert status == 0, error
  assert_same_run(config, stopped, reference)

  # All commands show the same accuracies, even if the run is already complete.
  def accuracies(text):
    return re.findall(r'accuracy[^│]*│ +(\d+\.\d+%)', text)

  assert len(accuracies(shown)) == 3
  assert accuracies(resumed) == accuracies(shown)
  stamps = {p: p.stat().st_mtime_ns for p in reference.rglob('*')}
  status, shown_again, _ = finish(start(uninterrupted, environment))
  assert status == 0
  assert shown_again == shown[shown.index('┌') :]
  assert {p: p.stat().st_mtime_ns for p in reference.rglob('*')} == stamps


@pytest.mark.slow
def test_train_and_evaluate_in_notebook_works_without_flags(
  tmp_path, environment
):
  pretrained = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  values = {'estimator': 'ste', 'epochs': 1, 'batch_size': 718}
  program = f"""
import json
from absl import flags
import pytest
from experiments.training import train_and_evaluate
from experiments.configs import digits
from tests.experiments import tiny
tiny.put_in(pytest.MonkeyPatch())
config = digits.get_config()
config.update({values | {'pretrained': pretrained}!r})
result = train_and_evaluate(config, {str(tmp_path / 'run')!r})
assert not flags.FLAGS.is_parsed()
assert 'config' not in flags.FLAGS
print(json.dumps(result.records))
"""
  status, out, error = finish(
    start([sys.executable, '-c', program], environment)
  )
  assert status == 0, error
  header, records = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert json.loads(out.splitlines()[-1]) == records
  assert records[0]['step'] == 2
  assert header['config'] | values == header['config']


@pytest.mark.slow
def test_cifar_user_error_is_one_line(tmp_path, environment):
  work, other_work = tmp_path / 'run', tmp_path / 'other'
  cases = {
    'Similar keys: learning_rate': arguments(work, lerning_rate=1),
    "config.network='vgg' must be one of": arguments(work, network='vgg'),
    'config.epochs=-1 must be at least 0': arguments(work, epochs=-1),
    'bits=9': arguments(work, program=('-m', 'experiments.pretrain'), bits=9),
    # Two processes in one folder would give another error.
    'There is no file none.safetensors': arguments(
      other_work, pretrained='none.safetensors'
    ),
    'python -m experiments.prepare_data': arguments(
      work, dataset='cifar10', data_dir=tmp_path / 'empty'
    ),
    'There is no configuration nothing.py': arguments(
      work, '--config=nothing.py'
    ),
    "unknown arguments ['stray']": arguments(work, 'stray'),
  }
  processes = {part: start(args, environment) for part, args in cases.items()}
  for part, process in processes.items():
    status, out, error = finish(process)
    assert status == 1, part
    assert part in error
    assert 'Traceback' not in error
    assert out == ''
  assert not work.exists()
  assert not other_work.exists()


@pytest.fixture
def set_flags(monkeypatch):
  """Returns a function that sets the flags of a command with a tiny network."""
  tiny.put_in(monkeypatch)
  monkeypatch.setattr(process_flags, 'start', lambda: None)

  def apply(config, work):
    values = {'CONFIG': config, 'WORKDIR': work and str(work), 'SMOKE': False}
    for name, value in values.items():
      flag = types.SimpleNamespace(value=value)
      monkeypatch.setattr(training_flags, name, flag)

  return apply


def test_cifar_divergence_is_one_line(tmp_path, set_flags):
  config = base_config(tiny.config())
  config.learning_rate = 3e38
  set_flags(config, tmp_path / 'run')
  with pytest.raises(SystemExit) as error:
    command.main(['cifar'])
  assert 'not finite at step 1. There is no checkpoint' in error.value.code
  _, records = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert records == []


def test_pretrain_writes_base_model_for_cifar(tmp_path, set_flags, capsys):
  config = tiny.config(pretrain_epochs=2, estimator='fc_grad', epochs=1)
  set_flags(config, tmp_path / 'base')
  pretrain.main(['pretrain'])
  out = capsys.readouterr().out
  header, records = run_log.read_log(tmp_path / 'base' / 'metrics.jsonl')
  assert header['config'] == base_config(config).to_dict()
  accuracy = f'{records[1]["test_accuracy"]:.2f}%'
  assert f'resnet8 on digits: {accuracy} test accuracy' in out
  config.pretrained = re.search(r'--config\.pretrained=(\S+)', out)[1]
  set_flags(config, tmp_path / 'further')
  pretrain.main(['pretrain'])
  further, _ = run_log.read_log(tmp_path / 'further' / 'metrics.jsonl')
  assert further['config']['learning_rate'] == FURTHER_LEARNING_RATE
  assert further['start']['base_accuracy'] == records[1]['test_accuracy']
  set_flags(config, tmp_path / 'run')
  command.main(['cifar'])
  out = capsys.readouterr().out
  assert re.search(rf'full-precision test accuracy +│ +{accuracy}', out)
  assert not (tmp_path / 'run' / 'pretrain').exists()


def test_pretrain_without_epochs_names_pretrain_epochs(tmp_path, set_flags):
  set_flags(tiny.config(pretrain_epochs=0), tmp_path / 'base')
  with pytest.raises(
    SystemExit, match=r'^config\.pretrain_epochs=0 must be at least 1'
  ):
    pretrain.main(['pretrain'])
  assert not (tmp_path / 'base').exists()


def test_workdir_for_without_flag_says_how_to_resume(
  tmp_path, set_flags, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  set_flags(tiny.config(), None)
  folder, hint = training_flags.workdir_for(training_flags.CONFIG.value)
  name = r'runs/\d{8}-\d{6}-resnet8-dorefa-lstm_fc-adam'
  assert re.fullmatch(name, str(folder))
  assert hint.endswith(f'--workdir={folder}')
  assert not folder.exists()


@pytest.mark.parametrize(
  ('raised', 'code'),
  [
    (errors.MissingError('no data: run this'), 'no data: run this'),
    (errors.UnreadableError('damaged'), 'damaged'),
    (errors.ConfigError('bits=9'), 'bits=9'),
    (TrainingDiverged('at step 9'), 'at step 9'),
    (KeyboardInterrupt(), 130),
    (SystemExit(143), 143),
  ],
)
def test_exit_on_user_error_exits_with_message(raised, code):
  with pytest.raises(SystemExit) as error, errors.exit_on_user_error():
    raise raised
  assert error.value.code == code


def test_exit_on_user_error_other_error_of_command_exits_with_message():
  with (
    pytest.raises(SystemExit, match='disk full'),
    errors.exit_on_user_error(OSError),
  ):
    raise OSError('disk full')


@pytest.mark.parametrize('kind', [ValueError, FileNotFoundError, RuntimeError])
def test_exit_on_user_error_other_error_keeps_traceback(kind):
  with pytest.raises(kind), errors.exit_on_user_error():
    raise kind('a defect')


@pytest.mark.slow
def test_parse_flags_error_in_config_file_keeps_traceback(
  tmp_path, monkeypatch
):
  path = tmp_path / 'config.py'
  path.write_text('import os\ndef get_config():\n  return os.nothing\n')
  program = (
    'import sys\n'
    'from experiments.training import flags\n'
    f"flags.parse_flags(['cifar', '--config={path}'])\n"
  )
  process = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )
  assert 'Traceback' in process.stderr
  assert "no attribute 'nothing'" in process.stderr
