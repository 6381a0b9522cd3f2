"""The commands as real processes: killed, stopped, resumed, refused."""

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

from experiments import cifar, pretrain
from experiments.build import check, train_step
from experiments.common import errors
from experiments.records import model_file, run_log
from experiments.training import train as train_module
from mq_jax import models
from tests.experiments import tiny

ROOT = pathlib.Path(__file__).parents[2]
# Full batches of 143 in the 1437 training images: an even number, so that runs
# which save at other steps still sum their losses over the same pairs of steps.
STEPS = 10
OVERRIDES = {
  'network': 'resnet8',
  'estimator': 'lstm_fc',
  'hidden': 4,
  'optimizer': 'adam',
  'batch_size': 143,
  'epochs': 2,
  'chunk': 2,
}
SECONDS = 300  # until a process counts as hung


@pytest.fixture(autouse=True, scope='module')
def _compilation_cache(tmp_path_factory):
  with tiny.compilation_cache(tmp_path_factory.mktemp('compiled')):
    yield


@pytest.fixture
def environment(tmp_path_factory):
  """Of the processes of one test, which compile a program only once."""
  return {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'COLUMNS': '200',
  }


@pytest.fixture
def pretrained(tmp_path):
  return tiny.write_model(tmp_path / 'base.safetensors', models.resnet8())


def arguments(work, *more, module='cifar', **overrides):
  """A command line."""
  return [
    *(sys.executable, '-m', f'experiments.{module}'),
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
  """Exit status, standard output and standard error of a process."""
  out, err = process.communicate(timeout=SECONDS)
  return process.returncode, out, err


def wait_for(process, condition, what):
  end = time.monotonic() + SECONDS
  while not condition():
    assert process.poll() is None, f'it ended before there was {what}'
    assert time.monotonic() < end, f'there is no {what}'
    time.sleep(0.02)


def saved_steps(work):
  """The steps of the checkpoints that are whole."""
  return sorted(
    int(p.name) for p in work.glob('checkpoints/*') if p.name.isdigit()
  )


def same_end(config, work, other):
  """Asserts that two runs ended in one state, by one way."""
  one, two = (tiny.last_checkpoint(config, w) for w in (work, other))
  assert one.step == two.step == config.epochs * STEPS
  ours = tiny.as_bytes(one.state)
  assert ours == tiny.as_bytes(two.state)
  for part in ('params', 'phi', 'refine_state', 'estimator_state', 'key'):
    assert any(path.startswith(f'state/{part}') for path in ours), part
  records = [run_log.read_log(w / 'metrics.jsonl')[1] for w in (work, other)]
  assert tiny.timeless(records[0]) == tiny.timeless(records[1])
  assert [r['epoch'] for r in records[0]] == [1, 2]
  assert any(r['flipped']['stem/kernel'] > 0 for r in records[0])
  files = [
    model_file.load_model(w / 'quantized.safetensors') for w in (work, other)
  ]
  assert tiny.as_bytes(files[0].params) == tiny.as_bytes(files[1].params)


def test_stopped_in_any_way_a_run_goes_on_bit_for_bit(
  tmp_path, environment, pretrained
):
  config = tiny.config(**OVERRIDES, pretrained=pretrained)
  values = {**OVERRIDES, 'pretrained': pretrained}
  whole, killed, stopped = (
    tmp_path / n for n in ('whole', 'killed', 'stopped')
  )
  often = arguments(killed, checkpoint_every=4, **values)
  # With this command only a signal saves in the middle of an epoch.
  rarely = arguments(stopped, checkpoint_every=1000, **values)

  reference = arguments(whole, checkpoint_every=4, **values)
  status, shown, told = finish(start(reference, environment))
  assert status == 0, told

  # kill -9, at a random moment after a random one of the checkpoints.
  target, delay = random.randint(1, 2 * STEPS - 6), random.uniform(0, 0.3)
  with (tmp_path / 'output').open('w') as output:
    process = start(often, environment, output)
    wait_for(
      process, lambda: max(saved_steps(killed), default=0) >= target, 'it'
    )
    time.sleep(delay)
    process.kill()
  moment = f'killed {delay} s after a checkpoint of step {target} or more'
  assert process.wait(SECONDS) == -signal.SIGKILL, moment
  assert not (killed / 'quantized.safetensors').exists(), moment
  status, resumed, told = finish(start(often, environment))
  assert status == 0, (moment, told)
  config.checkpoint_every = 4
  same_end(config, killed, whole)

  def stop(number):
    """Sends a signal once the steps have begun; the step it saved at."""
    with (tmp_path / f'output{number}').open('w') as output:
      process = start(rarely, environment, output)
      title = 'resnet8 dorefa lstm_fc'
      path = pathlib.Path(output.name)
      wait_for(process, lambda: title in path.read_text(), title)
      time.sleep(random.uniform(0, 0.5))
      process.send_signal(number)
    assert process.wait(SECONDS) == 128 + number
    text = path.read_text()
    assert 'Traceback' not in text
    said = re.search(r'Saved at step (\d+); the same command', text)
    assert int(said[1]) == saved_steps(stopped)[-1]
    return int(said[1])

  first = stop(signal.SIGTERM)
  assert 0 < first < STEPS
  assert stop(signal.SIGINT) > first
  status, _, told = finish(start(rarely, environment))
  assert status == 0, told
  same_end(config, stopped, whole)

  # Each shows the accuracies of the same run, and shows them again.
  def accuracies(text):
    return re.findall(r'accuracy[^│]*│ +(\d+\.\d+%)', text)

  assert len(accuracies(shown)) == 3
  assert accuracies(resumed) == accuracies(shown)
  stamps = {p: p.stat().st_mtime_ns for p in whole.rglob('*')}
  status, again, _ = finish(start(reference, environment))
  assert status == 0
  assert again == shown[shown.index('┌') :]
  assert {p: p.stat().st_mtime_ns for p in whole.rglob('*')} == stamps


def test_a_notebook_needs_no_flags(tmp_path, environment):
  pretrained = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  values = {'estimator': 'ste', 'epochs': 1, 'batch_size': 718}
  program = f"""
import json
from absl import flags
from experiments import build, train
from experiments.configs import digits
from tests.experiments import tiny
train_step.network = lambda config, num_classes: tiny.Net(num_classes)
config = digits.get_config()
config.update({values | {'pretrained': pretrained}!r})
result = train.train_and_evaluate(config, {str(tmp_path / 'run')!r})
assert not flags.FLAGS.is_parsed()
assert 'config' not in flags.FLAGS
print(json.dumps(result.records))
"""
  status, out, told = finish(
    start([sys.executable, '-c', program], environment)
  )
  assert status == 0, told
  header, record = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert json.loads(out.splitlines()[-1]) == record
  assert record[0]['step'] == 2
  assert header['config'] | values == header['config']


def test_what_a_person_can_mend_is_told_in_a_line(tmp_path, environment):
  work = tmp_path / 'run'
  cases = {
    "unknown config key 'lerning_rate'": arguments(work, lerning_rate=1),
    "config.network='vgg' must be one of": arguments(work, network='vgg'),
    'config.epochs=-1 must be at least 0': arguments(work, epochs=-1),
    'bits=9': arguments(work, module='pretrain', bits=9),
    'there is no file none.safetensors': arguments(
      work, pretrained='none.safetensors'
    ),
    'python -m experiments.prepare_data': arguments(
      work, dataset='cifar10', data_dir=tmp_path / 'empty'
    ),
    "No such file or directory: 'nothing.py'": arguments(
      work, '--config=nothing.py'
    ),
    "unknown arguments ['stray']": arguments(work, 'stray'),
  }
  processes = {part: start(args, environment) for part, args in cases.items()}
  for part, process in processes.items():
    status, out, told = finish(process)
    assert status == 1, part
    assert part in told
    assert 'Traceback' not in told
    assert out == ''
  assert not work.exists()


@pytest.fixture
def in_process(monkeypatch):
  """The commands with a tiny network, and flags that nobody parsed."""
  tiny.put_in(monkeypatch)

  def give(config, work):
    flag = lambda value: types.SimpleNamespace(value=value)  # noqa: E731
    monkeypatch.setattr(cifar, 'CONFIG', flag(config))
    monkeypatch.setattr(cifar, 'WORKDIR', flag(work and str(work)))

  return give


def test_divergence_is_told_in_a_line(tmp_path, in_process):
  config = train_step.base_config(tiny.config())
  config.learning_rate = 3e38
  in_process(config, tmp_path / 'run')
  with pytest.raises(SystemExit) as error:
    cifar.main(['cifar'])
  assert 'not finite at step 1. There is no checkpoint' in error.value.code
  _, records = run_log.read_log(tmp_path / 'run' / 'metrics.jsonl')
  assert records == []


def test_pretrain_makes_what_cifar_starts_from(tmp_path, in_process, capsys):
  config = tiny.config(pretrain_epochs=2, estimator='fc_grad', epochs=1)
  in_process(config, tmp_path / 'base')
  pretrain.main(['pretrain'])
  out = capsys.readouterr().out
  header, records = run_log.read_log(tmp_path / 'base' / 'metrics.jsonl')
  assert header['config'] == train_step.base_config(config).to_dict()
  accuracy = f'{records[1]["test_accuracy"]:.2f}%'
  assert f'resnet8 on digits: {accuracy} test accuracy' in out
  config.pretrained = re.search(r'--config\.pretrained=(\S+)', out)[1]
  in_process(config, tmp_path / 'run')
  cifar.main(['cifar'])
  out = capsys.readouterr().out
  assert re.search(rf'full-precision test accuracy +│ +{accuracy}', out)
  assert not (tmp_path / 'run' / 'pretrain').exists()


def test_without_a_workdir_it_says_how_to_go_on(
  tmp_path, in_process, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  in_process(tiny.config(), None)
  folder = cifar.workdir_for(cifar.CONFIG.value)
  name = r'runs/\d{8}-\d{6}-resnet8-dorefa-lstm_fc-adam'
  assert re.fullmatch(name, folder)
  assert f'--workdir={folder}' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('raised', 'code'),
  [
    (errors.MissingError('no data: run this'), 'no data: run this'),
    (errors.UnreadableError('damaged'), 'damaged'),
    (check.ConfigError('bits=9'), 'bits=9'),
    (train_module.TrainingDiverged('at step 9'), 'at step 9'),
    (KeyboardInterrupt(), 130),
    (SystemExit(143), 143),
  ],
)
def test_what_is_exit_on_user_error(raised, code):
  with pytest.raises(SystemExit) as error, errors.exit_on_user_error():
    raise raised
  assert error.value.code == code


@pytest.mark.parametrize('kind', [ValueError, FileNotFoundError, RuntimeError])
def test_a_defect_keeps_its_traceback(kind):
  with pytest.raises(kind), errors.exit_on_user_error():
    raise kind('a defect')


def test_a_defect_in_a_config_file_keeps_its_traceback(tmp_path, monkeypatch):
  path = tmp_path / 'config.py'
  path.write_text('import os\ndef get_config():\n  return os.nothing\n')
  program = (
    'import sys\n'
    'from experiments import cifar\n'
    f"cifar.parse_flags(['cifar', '--config={path}'])\n"
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )
  assert 'Traceback' in done.stderr
  assert "no attribute 'nothing'" in done.stderr
