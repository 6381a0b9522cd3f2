"""Trains, resumes and samples a small language model."""

import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import predict, sample
from experiments.build.check import check
from experiments.build.parts import make_parts
from experiments.common import parallel
from experiments.common.errors import ConfigError, InvalidError
from experiments.configs import gpt
from experiments.data import text
from experiments.deploy import make
from experiments.deploy.generate import generate
from experiments.records import run_log, workdir
from experiments.training import train
from experiments.training.loop import Stopped
from experiments.training.summary import print_summary
from tests.experiments import test_processes, tiny

pytestmark = pytest.mark.usefixtures('compilation_cache')
# Each letter follows from the one before it.
TEXT = b'abcdefghijklmnopqrstuvwxyz' * 100


def config(tmp_path, **values):
  path = tmp_path / 'text.txt'
  path.write_bytes(TEXT)
  return gpt.get_config(
    **{
      'data': str(path),
      'context': 16,
      'batch_size': 8,
      'depth': 2,
      'embed_dim': 16,
      'heads': 2,
      'epochs': 2,
      'learning_rate': 0.03,
      'chunk': 2,
      'checkpoint_every': 3,
    }
    | values
  )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Config, folder and result of a run of ternary weights."""
  folder = tmp_path_factory.mktemp('lm')
  made = config(folder, epochs=4)
  return made, folder / 'run', train.train_and_evaluate(made, folder / 'run')


def test_ternary_model_learns_the_order_of_letters(trained, capsys):
  _, _, result = trained
  losses = [record['test_loss'] for record in result.records]
  assert losses[0] < math.log(26)
  assert result.last_accuracy > 90
  bits, symbol = result.bits
  assert (bits, symbol) == (pytest.approx(losses[-1] / math.log(2)), 'byte')
  print_summary(result)
  assert re.search(rf'bits per byte.*{bits:.3f}', capsys.readouterr().out)


def test_stopped_run_resumes_bit_for_bit(tmp_path):
  made = config(tmp_path, estimator='multi_fc', hidden=3, init='identity')
  expected = train.train_and_evaluate(made, tmp_path / 'whole')
  asked = iter([False, False, True])
  with pytest.raises(Stopped):
    train.train_and_evaluate(
      made, tmp_path / 'parts', stop=lambda: next(asked, True)
    )
  result = train.train_and_evaluate(made, tmp_path / 'parts')
  assert tiny.timeless(result.records) == tiny.timeless(expected.records)
  ends = [tiny.end_of_run(made, tmp_path / name) for name in ('whole', 'parts')]
  assert ends[0] == ends[1]


@pytest.mark.parametrize(
  'values',
  [
    {'distill': 0.5, 'quantize_ends': True, 'group_size': 8},
    {'trials': 2},
    {'new_head': True},
    {'tied': True},
  ],
)
def test_run_starts_from_a_full_precision_model(tmp_path, values):
  same = {'epochs': 1, 'epoch_steps': 6, 'tied': values.get('tied', False)}
  base = config(
    tmp_path,
    **same,
    **{'quantizer': 'none', 'activation_quantizer': 'relu'},
    activation_bits=2,
  )
  path = train.train_and_evaluate(base, tmp_path / 'base').model_path
  made = config(tmp_path, **same | values, pretrained=str(path))
  result = train.train_and_evaluate(made, tmp_path / 'run')
  known = not values.get('new_head')
  assert (result.base_accuracy is not None) == known
  assert result.records[0]['test_loss'] < math.log(256)


def test_run_trains_its_base_model_first(tmp_path):
  made = config(tmp_path, epochs=1, epoch_steps=2, pretrain_epochs=1)
  result = train.train_and_evaluate(made, tmp_path / 'run')
  assert result.base_accuracy is not None


def test_run_of_a_changed_text_does_not_resume(tmp_path):
  made = config(tmp_path)
  with pytest.raises(Stopped):
    train.train_and_evaluate(made, tmp_path / 'run', stop=lambda: True)
  (tmp_path / 'text.txt').write_bytes(TEXT[::-1])
  with pytest.raises(InvalidError, match=r'config\.data=.*other contents'):
    train.train_and_evaluate(made, tmp_path / 'run')


def test_complete_run_of_a_changed_text_is_refused(tmp_path):
  made = config(tmp_path, epochs=1, epoch_steps=2, quantizer='none')
  result = train.train_and_evaluate(made, tmp_path / 'run')
  (tmp_path / 'text.txt').write_bytes(TEXT[::-1])
  with pytest.raises(InvalidError, match=r'config\.data=.*other contents'):
    train.train_and_evaluate(made, tmp_path / 'run')
  # The result can be read without the text.
  (tmp_path / 'text.txt').unlink()
  assert train.train_and_evaluate(made, tmp_path / 'run') == result


def test_test_of_long_examples_has_small_batches():
  keys = {'data': '', 'batch_size': 1, 'epoch_steps': 0}
  mesh = parallel.data_mesh(1)
  sizes = {
    context: text.text_pipeline(
      np.zeros(200_000, np.uint8),
      ConfigDict(keys | {'context': context}),
      mesh,
    ).evaluate.largest_batch
    for context in (16, 128, 1000)
  }
  assert sizes == {16: 4096, 128: 512, 1000: 64}


@pytest.mark.parametrize(
  ('option', 'message'),
  [('--temperature=nan', 'temperature=nan must'), ('--length=-1', 'length=-1')],
)
def test_sample_refuses_bad_options_before_it_writes(trained, option, message):
  _, folder, _ = trained
  command = [sys.executable, '-m', 'experiments.sample', f'--workdir={folder}']
  run = subprocess.run(
    [*command, option], capture_output=True, check=False, text=True
  )
  assert (run.returncode, run.stdout) == (2, '')
  assert message in run.stderr
  assert 'Traceback' not in run.stderr


def test_sample_ends_quietly_when_nobody_reads(trained):
  _, folder, _ = trained
  command = f'{sys.executable} -m experiments.sample --workdir={folder}'
  run = subprocess.run(
    ['bash', '-c', f'{command} --length=2000 | head -c 5'],
    capture_output=True,
    check=True,
  )
  assert (len(run.stdout), run.stderr) == (5, b'')


@pytest.mark.parametrize('fsdp', [False, True])
def test_two_devices_train_as_one(tmp_path, fsdp):
  made = config(tmp_path, epochs=1, epoch_steps=6, quantizer='bwn')
  one = train.train_and_evaluate(made, tmp_path / 'one')
  made.update(mesh_data=2, fsdp=fsdp)
  two = train.train_and_evaluate(made, tmp_path / 'two')
  for name in ('train_loss', 'test_loss'):
    assert two.records[0][name] == pytest.approx(one.records[0][name], rel=1e-3)


def test_two_processes_train_as_one_of_two_devices(tmp_path):
  made = config(tmp_path, epochs=1, epoch_steps=6, quantizer='bwn', mesh_data=2)
  values = made.to_dict()
  changed = [
    f'--config.{name}={values[name]}'
    for name, default in gpt.get_config().to_dict().items()
    if values[name] != default
  ]
  command = [sys.executable, '-m', 'experiments.lm']
  command += ['--config=experiments/configs/gpt.py', *changed]
  command += [f'--workdir={tmp_path / "two"}', '--processes=2']
  command += [f'--coordinator=localhost:{test_processes.free_port()}']
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=1'
  running = [
    subprocess.Popen(
      [*command, f'--process_id={index}'],
      env={**os.environ, 'XLA_FLAGS': flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  try:
    shown = [process.communicate(timeout=300)[0] for process in running]
  finally:
    for process in running:
      process.kill()
  assert [process.returncode for process in running] == [0, 0], shown
  one = train.train_and_evaluate(made, tmp_path / 'one')
  (found,) = run_log.read_log(tmp_path / 'two' / workdir.LOG)[1]
  for name in ('train_loss', 'test_loss'):
    assert found[name] == pytest.approx(one.records[0][name], rel=1e-5)


def test_sample_continues_the_alphabet(trained):
  _, folder, _ = trained
  command = [sys.executable, '-m', 'experiments.sample', f'--workdir={folder}']
  command += ['--prompt=abcdefgh', '--length=12', '--temperature=0']
  run = subprocess.run(command, capture_output=True, check=True, text=True)
  assert run.stdout == 'abcdefghijklmnopqrst\n'


def test_generate_sees_the_last_bytes_of_its_context():
  context = 4

  def logits_of(tokens):
    """Prefers the sum of the tokens; later tokens do not count."""
    sums = np.cumsum(tokens, axis=1) % 256
    return 50.0 * np.eye(256)[sums]

  out = [*generate(logits_of, bytes([1, 2]), 5, context=context)]
  seen = [1, 2]
  for _ in range(5):
    seen.append(sum(seen[-context:]) % 256)
  assert out == seen[2:]


def test_generate_draws_from_the_softmax_at_a_temperature():
  logits = np.zeros(256, np.float32)
  logits[:2] = [2.0, 1.0]
  logits[2:] = -1e9

  def logits_of(tokens):
    return np.broadcast_to(logits, (1, tokens.shape[1], 256))

  out = [*generate(logits_of, b'x', 2000, context=2, temperature=0.5)]
  share = out.count(0) / len(out)
  # The standard deviation of the share is 0.007.
  assert share == pytest.approx(1 / (1 + math.exp(-2)), abs=0.03)
  for temperature in (0, 1e-40):
    least = generate(logits_of, b'x', 3, context=2, temperature=temperature)
    assert [*least] == [0, 0, 0]
  for bad in ({'prompt': b''}, {'temperature': -1.0}):
    arguments = {'prompt': b'x', 'length': 1, 'context': 2} | bad
    with pytest.raises(ValueError, match=next(iter(bad))):
      generate(logits_of, **arguments)


def test_rules_quantize_projections_per_layer_and_ends_on_request():
  def selected(**values):
    made = gpt.get_config(depth=2, **values)
    return [rule for rule, _ in make_parts(made, 1).rules]

  assert selected() == ['blocks/.*/kernel']
  ends = selected(quantize_ends=True)
  assert ends == ['blocks/.*/kernel', 'embed/embedding|head/kernel']


@pytest.mark.parametrize('group_size', [0, 8])
def test_scales_are_per_layer_or_per_group(group_size):
  made = gpt.get_config(
    quantizer='bwn', activation_quantizer='relu', group_size=group_size
  )
  ((_, quantizer),) = make_parts(made, 1).rules
  w = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 5)))
  codes, levels = quantizer.codes(w, quantizer.init(w))
  del codes
  sizes = np.unique(np.abs(np.asarray(levels)).round(6)).size
  assert sizes == (2 if not group_size else 2 * 5 * 16 // group_size)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'embed_dim': 18, 'heads': 4}, 'embed_dim=18 must be a multiple of 8'),
    ({'dataset': 'digits'}, "'gpt' takes tokens, but .*'digits' has images"),
    ({'network': 'resnet20'}, "'resnet20' takes images, but .*'text' has tok"),
    ({'group_size': 48}, r'group_size=48 does not fit blocks/.*/kernel'),
    (
      {'group_size': 48, 'embed_dim': 96, 'quantize_ends': True},
      'does not fit embed/embedding',
    ),
    (
      {'group_size': 7, 'quantizer': 'slb', 'activation_quantizer': 'relu'}
      | {'activation_bits': 2},
      'group_size=7 does not fit blocks',
    ),
    (
      {'group_size': 8, 'quantizer': 'bwn', 'per_channel': True},
      'leave config.per_channel at False',
    ),
    ({'quantizer': 'none', 'group_size': 8}, 'group_size=8 has no effect'),
    ({'quantizer': 'lapq', 'bits': 4, 'epochs': 0}, 'has a stack of layers'),
    ({'loss': 'squared_hinge'}, "set config.loss='cross_entropy'"),
    ({'tied': True, 'new_head': True}, 'set config.tied=False'),
    ({'recalibrate': 20}, "recalibrate=20 has no effect .*'gpt'"),
    ({'context': 1}, 'context=1 must be at least 2'),
    ({'activation_quantizer': 'dorefa'}, 'signed=True'),
  ],
)
def test_check_refuses_sizes_that_do_not_fit(values, message):
  with pytest.raises(ConfigError, match=message):
    check(gpt.get_config(**values))


@pytest.fixture(scope='module')
def deployed(trained):
  """Folder of the deployed files of the run, and their card."""
  _, folder, _ = trained
  return folder / 'small', make.deploy(folder, folder / 'small')


def test_deploy_writes_files_that_equal_the_trained_model(trained, deployed):
  _, _, result = trained
  out, described = deployed
  last = result.records[-1]
  for file in described['artefacts']:
    assert file['equal_predictions'] == file['tokens'] == 16 * 16
    assert file['accuracy'] == pytest.approx(last['test_accuracy'], abs=0.01)
    wanted = last['test_loss'] / math.log(2)
    # The logits are float32 of about 10.
    assert file['bits'] == pytest.approx(wanted, abs=1e-6)
  assert (described['context'], described['vocabulary']) == (16, 256)
  page = (out / make.PAGE).read_text()
  assert '256 bytes of the test correctly' in page
  assert 'experiments.sample model.stablehlo' in page
  assert 'classes' not in page


@pytest.mark.parametrize('name', ['packed.safetensors', 'model.stablehlo'])
def test_sample_writes_with_a_deployed_file(
  deployed, name, capsys, monkeypatch
):
  out, _ = deployed
  command = ['sample', str(out / name), '--prompt=xyzabc', '--length=4']
  monkeypatch.setattr(sys, 'argv', [*command, '--temperature=0'])
  sample.main()
  assert capsys.readouterr().out == 'xyzabcdefg\n'


def test_predict_refuses_a_language_model(deployed):
  with pytest.raises(InvalidError, match=r'write text .*experiments\.sample'):
    [*predict.predict(deployed[0] / 'packed.safetensors', [])]


def test_deploy_refuses_onnx_of_bfloat16(trained, tmp_path, monkeypatch):
  made, folder, _ = trained
  run = make.run_folder.read_quantized_run(folder)
  run[0].dtype = 'bfloat16'
  monkeypatch.setattr(make.run_folder, 'read_quantized_run', lambda path: run)
  monkeypatch.setattr(make.export, 'check_onnx', lambda: None)
  with pytest.raises(InvalidError, match=r'no bfloat16 on CPU.*=float32'):
    make.deploy(folder, tmp_path / 'out', ['onnx'])
  assert made.dtype == 'float32'


def test_deploy_refuses_another_text(trained, tmp_path):
  made, folder, _ = trained
  shutil.copytree(folder, tmp_path / 'run')
  path = pathlib.Path(made.data)
  content = path.read_bytes()
  try:
    path.write_bytes(content[::-1])
    with pytest.raises(InvalidError, match='Use the data of the run'):
      make.deploy(tmp_path / 'run', tmp_path / 'out')
  finally:
    path.write_bytes(content)
  assert not (tmp_path / 'out').exists()
