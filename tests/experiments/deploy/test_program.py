"""Tests which programs are opened, and that the process survives them."""

import dataclasses
import functools
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import xla_metadata

import mq_jax
from experiments.build.networks import make_network
from experiments.build.parts import make_parts
from experiments.common.errors import InvalidError, MissingError
from experiments.configs import digits, gpt
from experiments.data.raw_examples import Inputs, Tokens
from experiments.deploy import export, loading, packed_network, program, worker
from tests.experiments import tiny

IMAGE = (32, 32, 3)
INPUTS = Inputs(IMAGE, (0.5,) * 3, (0.5,) * 3, tuple('0123456789'))


def exported(network, quantizer, *, count_bits=False, **changes):
  """Returns the program of a network of random weights."""
  config = digits.get_config()
  config.update(network=network, **changes)
  variables = tiny.variables(make_network(config, 10))
  packed = mq_jax.pack(
    variables['params'],
    quantizer,
    model_state=variables['batch_stats'],
    metadata=packed_network.make_metadata(config, INPUTS, count_bits),
  )
  return export.stablehlo(packed_network.make_logits(packed), IMAGE)


@functools.cache
def float_program():
  return exported(
    'resnet8', mq_jax.dorefa(2), activation_quantizer='lsq', activation_bits=2
  )


def language_model(**changes):
  """Returns packed random weights of a language model."""
  config = gpt.get_config(depth=2, embed_dim=16, heads=2, context=8, **changes)
  net = make_network(config, 256)
  params = net.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))['params']
  return mq_jax.pack(
    params,
    make_parts(config, steps_per_epoch=1).rules,
    metadata=packed_network.make_metadata(config, Tokens((8,), 256)),
  )


def exported_language_model(**changes):
  logits = packed_network.make_logits(language_model(**changes))
  return export.stablehlo(logits, (8,))


# These contain all operations that any combination of networks, quantizers of
# weights and activations, and types contains.
EXPORTS = {
  'levels of 2 bits, lsq': float_program,
  'max pooling, bfloat16, 3 bits': lambda: exported(
    'labnet',
    [('.*dense.*/kernel', None), ('.*/kernel', mq_jax.dorefa(3))],
    dtype='bfloat16',
  ),
  'counting bits': lambda: exported(
    'resnet8', mq_jax.bwn(), count_bits=True, activation_quantizer='sign'
  ),
  'language model': exported_language_model,
}


def uses(content):
  program_ = jax.export.deserialize(bytearray(content))
  module = program.parse(program_.mlir_module_serialized)
  return set(program.uses_of(module))


@pytest.mark.slow
def test_lists_of_operations_are_what_exports_contain():
  found = set().union(*(uses(make()) for make in EXPORTS.values()))
  assert found == {
    *(('operation', name) for name in program.OPERATIONS),
    *(('custom call', name) for name in program.CUSTOM_CALLS),
    *(('attribute', name) for name in program.ATTRIBUTES),
  }


@pytest.mark.slow
@pytest.mark.parametrize('activation', ['bi_real', 'dorefa', 'hwgq', 'pact'])
def test_uses_of_export_of_activation_are_allowed(activation):
  content = exported('resnet8', mq_jax.bwn(), activation_quantizer=activation)
  assert all(program.is_allowed(*use) for use in uses(content))


@pytest.mark.parametrize(
  'changes',
  [
    {'quantizer': 'bwn', 'group_size': 8},
    {'quantize_ends': True, 'tied': True},
    {'quantizer': 'dorefa', 'bits': 4, 'dtype': 'bfloat16'},
  ],
)
def test_program_of_language_model_returns_its_logits(tmp_path, changes):
  packed = language_model(**changes)
  path = tmp_path / 'model.stablehlo'
  path.write_bytes(exported_language_model(**changes))
  tokens = np.random.default_rng(0).integers(0, 256, (3, 8), np.uint8)
  found = program.load(path)
  assert (found.shape, found.takes_text) == ((8,), True)
  logits = found.logits(tokens)
  assert logits.dtype == np.float32
  np.testing.assert_allclose(
    logits, packed_network.compiled_logits(packed)(tokens), rtol=1e-4, atol=1e-4
  )


def write(tmp_path, function, **changes):
  """Writes the program of a function of uint8 images; returns its path."""
  (batch,) = jax.export.symbolic_shape('n')
  made = jax.export.export(
    jax.jit(function),
    platforms=('cpu', 'cuda'),
    disabled_checks=[jax.export.DisabledSafetyCheck.custom_call('evil')],
  )(jax.ShapeDtypeStruct((batch, *IMAGE), jnp.uint8))
  made = dataclasses.replace(made, disabled_safety_checks=(), **changes)
  path = tmp_path / 'model.stablehlo'
  path.write_bytes(made.serialize(vjp_order=0))
  return path


def logits(images):
  """Returns the first ten values of each image."""
  return images.reshape(images.shape[0], -1)[:, :10].astype(jnp.float32)


def call_outside(images):
  kind = jax.ShapeDtypeStruct((images.shape[0], 10), jnp.float32)
  return jax.ffi.ffi_call('evil', kind)(logits(images))


def with_metadata(images):
  with xla_metadata.set_xla_metadata(evil='1'):
    return logits(images)


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    (lambda x: jnp.tan(logits(x)), "the operation 'stablehlo.tan', which no"),
    (call_outside, "the custom call 'evil', which no program"),
    (with_metadata, "the attribute 'mhlo.frontend_attributes', which no"),
  ],
)
def test_load_program_with_other_content_raises_and_names_it(
  tmp_path, function, message
):
  path = write(tmp_path, function)
  with pytest.raises(InvalidError, match=message):
    program.load(path)


@pytest.mark.parametrize(
  'function',
  [
    lambda x: logits(x).astype(jnp.int32),
    lambda x: logits(x)[:, :, None],
    lambda x: (logits(x), logits(x)),
    lambda x: logits(x)[:1],
  ],
  ids=['integers', 'three dimensions', 'two results', 'one image'],
)
def test_load_program_of_other_results_raises(tmp_path, function):
  with pytest.raises(InvalidError, match=r'not float32 logits of shape \(N'):
    program.load(write(tmp_path, function))


def test_load_program_that_declares_other_types_raises(tmp_path):
  (batch,) = jax.export.symbolic_shape('n')
  declared = jax.core.ShapedArray((batch, 10), jnp.float32)
  for changes in ({'out_avals': (declared,)}, {'nr_devices': 2}):
    path = write(tmp_path, lambda x: logits(x)[:, :9], **changes)
    with pytest.raises(InvalidError, match='not float32 logits'):
      program.load(path)


@pytest.mark.slow
def test_load_program_in_process_returns_logits_of_program(tmp_path):
  images = np.arange(2 * 32 * 32 * 3).astype(np.uint8).reshape(2, *IMAGE)
  notices = []
  network = loading.load(write(tmp_path, logits), notify=notices.append)
  assert (network.shape, network.classes) == ((32, 32), ())
  for part in (images, images[:1], images[1:]):
    np.testing.assert_array_equal(network.logits(part), logits(part))
  (message,) = notices
  assert 'nothing shows that it is undamaged' in message
  path = write(tmp_path, lambda x: logits(x) / 0)
  with pytest.raises(InvalidError, match='not finite'):
    loading.load(path, notify=notices.append).logits(images)


@pytest.mark.parametrize(
  ('commands', 'cause'),
  [
    ('kill -SEGV $$', 'Segmentation fault'),
    ('kill -ALRM $$', 'opening it took more than 60 seconds'),
    ('echo first >&2; echo last >&2; exit 3', 'last'),
    ('exit 3', 'exit status 3'),
    ('printf \'{"shape": [1\'', 'exit status 0'),
  ],
)
def test_start_process_crashes_raises_cause_in_one_line(
  tmp_path, monkeypatch, commands, cause
):
  python = tmp_path / 'python'
  python.write_text(f'#!/bin/sh\n{commands}\n')
  python.chmod(0o700)
  monkeypatch.setattr(sys, 'executable', str(python))
  with pytest.raises(InvalidError) as error:
    worker.start(tmp_path / 'model.stablehlo')
  assert f'crashed the process that opened it ({cause})' in str(error.value)
  assert '\n' not in str(error.value)


def test_main_endless_opening_ends_process(tmp_path):
  code = (
    'from experiments.deploy import worker\n'
    'worker.SECONDS_TO_OPEN = 1\n'
    'worker.open_here = lambda path, exact: sum(iter(int, 1))\n'
    f'worker.main(["{tmp_path}"])\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert done.returncode == -signal.SIGALRM


def fake_python(folder, monkeypatch, *, logits='None', more=''):
  """Makes `worker.start` open a Python function in place of a file."""
  (folder / 'worker_of_test.py').write_text(
    'import sys\n'
    'import numpy as np\n'
    'from experiments.deploy import artefact, worker\n'
    f'{more}\n'
    f'network = artefact.Artefact(lambda images: {logits}, (1, 1), ())\n'
    'worker.open_here = lambda path, exact: network\n'
    'worker.main(sys.argv[1:])\n'
  )
  python = folder / 'python'
  root = pathlib.Path(worker.__file__).parents[2]
  python.write_text(
    f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable}'
    f' {folder}/worker_of_test.py $3\n'
  )
  python.chmod(0o700)
  monkeypatch.setattr(sys, 'executable', str(python))


IMAGES = np.zeros((2, 1, 1, 3), np.uint8)


def test_start_endless_logits_raises_in_one_line(tmp_path, monkeypatch):
  fake_python(
    tmp_path,
    monkeypatch,
    logits='sum(iter(int, 1))',
    more='worker.SECONDS_PER_BATCH = 1',
  )
  monkeypatch.setattr(worker, 'SECONDS_PER_BATCH', 1)
  network = worker.start(tmp_path / 'model.stablehlo')
  with pytest.raises(InvalidError) as error:
    network.logits(IMAGES)
  cause = 'computing the logits of 2 examples took more than 1 seconds'
  assert cause in str(error.value)


def test_start_logits_raises_ends_process(tmp_path, monkeypatch):
  processes = []

  def spy(*args, popen=subprocess.Popen, **kwargs):
    processes.append(popen(*args, **kwargs))
    return processes[-1]

  fake_python(
    tmp_path,
    monkeypatch,
    logits='np.full((len(images), 3), np.float32(images.max()) / 0)',
  )
  monkeypatch.setattr(subprocess, 'Popen', spy)
  network = worker.start(tmp_path / 'model.stablehlo')
  with pytest.raises(InvalidError, match='not finite'):
    network.logits(IMAGES)
  assert processes[0].poll() == 0
  with pytest.raises(InvalidError, match='has failed before'):
    network.logits(IMAGES)


def test_start_running_process_with_unreadable_answer_raises(
  tmp_path, monkeypatch
):
  python = tmp_path / 'python'
  python.write_text('#!/bin/sh\necho junk; exec sleep 30\n')
  python.chmod(0o700)
  monkeypatch.setattr(sys, 'executable', str(python))
  monkeypatch.setattr(worker, '_SECONDS_TO_END', 0.1)
  with pytest.raises(InvalidError, match='its answer cannot be read'):
    worker.start(tmp_path / 'model.stablehlo')


def test_main_parent_ends_ends_process(tmp_path):
  code = (
    'import time\n'
    'from experiments.deploy import worker\n'
    'worker.SECONDS_TO_OPEN = 30\n'
    'worker._SECONDS_TO_NOTICE = 0.05\n'
    'print("started", flush=True)\n'
    'worker.open_here = lambda path, exact: time.sleep(60)\n'
    f'worker.main(["{tmp_path}"])\n'
  )
  # The parent ends once the worker has begun. The worker keeps the pipe open.
  parent = (
    'import subprocess, sys, time\n'
    'process = subprocess.Popen([sys.executable, "-c", sys.argv[1]])\n'
    'time.sleep(1)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', parent, code], capture_output=True, timeout=15
  )
  assert done.stdout == b'started\n'


@pytest.mark.slow
def test_worker_needs_no_training_code(tmp_path):
  path = write(tmp_path, logits)
  names = ('flax', 'mq_jax', 'ml_collections', 'absl', 'optax', 'rich')
  code = (
    'import sys\n'
    f'for name in {names}: sys.modules[name] = None\n'
    'from experiments.deploy import worker\n'
    'worker.main(sys.argv[1:])\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, path], input=b'', capture_output=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == b'{"shape": [32, 32], "classes": [], "resize": null}\n'


def test_start_missing_package_raises_its_error(tmp_path, monkeypatch):
  path = tmp_path / 'model.onnx'
  path.write_bytes(b'')
  python = tmp_path / 'python'
  python.write_text(
    f'#!/bin/sh\n{sys.executable} -c "import sys\n'
    "sys.modules['onnxruntime'] = None\n"
    'from experiments.deploy import worker\n'
    'worker.main(sys.argv[1:])" $3\n'
  )
  python.chmod(0o700)
  monkeypatch.setattr(sys, 'executable', str(python))
  with pytest.raises(MissingError, match='pip install onnxruntime'):
    worker.start(path)
