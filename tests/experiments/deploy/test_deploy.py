"""Tests that deployed files run on their own and equal the trained network."""

import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from PIL import Image

import mq_jax
from experiments import predict, sample
from experiments.build.networks import make_activation
from experiments.common import errors, sealed
from experiments.configs import digits
from experiments.data import datasets
from experiments.deploy import artefact, card, check, loading, make
from experiments.records import cards, model_file
from experiments.report import deployed_table
from mq_jax import models
from mq_jax.selection import named_leaves, replace
from tests.experiments import tiny

FORMATS = ('safetensors', 'stablehlo')
HAS_ONNX = all(
  importlib.util.find_spec(name) for name in ('jax2onnx', 'onnxruntime')
)


def digits_labels():
  return datasets.load('digits').test_labels


def digits_config(**changes):
  config = digits.get_config()
  config.update(**{'network': 'resnet8', 'quantizer': 'bwn'} | changes)
  return config


def write_run(workdir, method=None, **changes):
  """Writes a complete run whose ResNet8 has random weights and statistics."""
  config = digits_config(**changes)
  activation = make_activation(config)
  net = models.resnet8(activation=activation)
  variables = jax.jit(
    lambda key: net.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
  )(jax.random.key(0))
  rng = np.random.default_rng(0)
  params = {
    path: leaf
    if path.endswith('kernel')
    else jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
    for path, leaf in named_leaves(variables['params']).items()
  }
  packed = mq_jax.pack(
    replace(variables['params'], params), method or mq_jax.bwn()
  )
  batch_stats = jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32),
    variables['batch_stats'],
  )
  file = workdir / 'quantized.safetensors'
  model_file.save_model(file, mq_jax.unpack(packed), batch_stats, {})
  right = trained_logits(net, workdir).argmax(1) == digits_labels()
  accuracy = {'accuracy': f'{100 * right.mean():.2f}'}
  model_file.save_model(file, mq_jax.unpack(packed), batch_stats, accuracy)
  tiny.write_header(workdir, config)
  return net


def trained_logits(net, workdir):
  model = model_file.load_model(workdir / 'quantized.safetensors')
  dataset = datasets.load('digits')
  images = (dataset.test_images / 255 - dataset.mean) / dataset.std
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  apply = jax.jit(lambda variables, x: net.apply(variables, x, train=False))
  return np.asarray(apply(variables, images.astype(np.float32)))


def artefact_logits(path):
  """Returns the logits of an artefact on the test images."""
  network = loading.load(path)
  return artefact.run_in_batches(
    network.logits, make.test_examples(digits_config())
  )


@pytest.fixture(scope='module')
def deployed(tmp_path_factory):
  """Returns the folder of deployed files, their card, and trained logits."""
  workdir = tmp_path_factory.mktemp('run')
  net = write_run(workdir)
  out = workdir / 'small'
  described = make.deploy(workdir, out, FORMATS)
  return out, described, trained_logits(net, workdir)


def test_sample_refuses_a_network_for_images(deployed):
  out, _, _ = deployed
  with pytest.raises(errors.InvalidError, match='classify images with it'):
    sample._open_artefact(out / 'packed.safetensors')
  with pytest.raises(errors.InvalidError, match=r'is a folder.*--workdir='):
    sample._open_artefact(str(out))


@pytest.fixture
def run_copy(deployed, tmp_path):
  """Returns a copy of the folder of the run."""
  for name in ('metrics.jsonl', 'quantized.safetensors'):
    shutil.copy(deployed[0].parent / name, tmp_path)
  return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize('kind', FORMATS)
def test_deploy_each_file_equals_trained_network(deployed, kind):
  out, described, expected = deployed
  network = loading.load(out / make.FORMATS[kind])
  dataset = datasets.load('digits')
  images = make.test_examples(digits_config())
  logits = artefact.run_in_batches(network.logits, images)
  error = np.abs(logits - expected).max(1) / np.abs(expected).max(1)
  assert error.max() < 1e-4
  np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
  # The number of images is not fixed.
  np.testing.assert_allclose(
    network.logits(dataset.test_images[:1]), logits[:1], rtol=1e-4, atol=1e-4
  )
  assert (network.shape, network.classes) == ((32, 32), dataset.class_names)
  (entry,) = [
    entry
    for entry in described['artefacts']
    if entry['file'] == make.FORMATS[kind]
  ]
  assert entry['bytes'] == (out / entry['file']).stat().st_size
  assert entry['equal_predictions'] == entry['images'] == 360
  assert entry['largest_error'] == pytest.approx(error.max(), abs=1e-6)
  right = expected.argmax(1) == dataset.test_labels
  assert entry['accuracy'] == described['accuracy'] == 100 * right.mean()


@pytest.mark.slow
def test_deploy_packed_file_has_integers_and_norms(deployed):
  out, described, _ = deployed
  packed = mq_jax.load_packed(out / 'packed.safetensors')
  assert packed.model_state == {}
  leaves = named_leaves(mq_jax.unpack(packed))
  for path, leaf in leaves.items():
    if path == 'head/kernel':
      # No norm follows the head, so the head keeps its scale.
      assert len(np.unique(np.abs(leaf))) == 1
    elif path.endswith('kernel'):
      np.testing.assert_array_equal(np.unique(leaf), [-1, 1])
    else:
      assert path.rpartition('/')[2] in ('scale', 'shift', 'bias')
  weights = sum(x.size for p, x in leaves.items() if p.endswith('kernel'))
  others = sum(x.size for p, x in leaves.items() if not p.endswith('kernel'))
  layers = sum(path.endswith('kernel') for path in leaves)
  stored = sum(layer['bytes'] for layer in described['layers'])
  # Bits fill whole bytes, each layer has a scale, and other values are float32.
  assert 0 <= stored - (weights / 8 + 4 * layers + 4 * others) < layers
  assert 10 * stored < described['trained_bytes'] * 1.2


@pytest.mark.slow
def test_deploy_program_contains_packed_weights_for_both_platforms(deployed):
  out, _, _ = deployed
  program = jax.export.deserialize(
    bytearray((out / 'model.stablehlo').read_bytes())
  )
  assert program.platforms == ('cpu', 'cuda')
  text = program.mlir_module()
  assert 'tensor<4608xui8>' in text  # 3·3·64·64 / 8
  # At the default precision, GPUs round the inputs of products to 10 bits.
  is_product = re.compile(r'= stablehlo\.(convolution|dot_general)').search
  products = [line for line in text.splitlines() if is_product(line)]
  assert products
  assert [line for line in products if 'HIGHEST' not in line] == []
  constants = [line for line in text.splitlines() if 'dense<' in line]
  assert not [line for line in constants if 'tensor<3x3x64x64xf32>' in line]


@pytest.mark.slow
def test_deploy_card_describes_the_network(deployed):
  out, described, _ = deployed
  content = json.loads((out / 'card.json').read_text())
  assert sealed.unseal(out / 'card.json', content) == described
  page = (out / 'CARD.md').read_text()
  for text in (
    'resnet8 for digits',
    'model.stablehlo',
    'packed.safetensors',
    '360 of 360',
    'stage1/block0/conv1/kernel',
    'commit abc',
    'seed 0',
  ):
    assert text in page, text
  macs = {layer['path']: layer['macs'] for layer in described['layers']}
  assert macs['stage1/block0/conv1/kernel'] == 32 * 32 * 9 * 16 * 16


@pytest.mark.slow
def test_deploy_command_shows_size_and_accuracy_of_each_file(deployed):
  _, described, _ = deployed
  text = io.StringIO()
  card.show(described, rich.console.Console(file=text, width=80))
  assert 'of 360' in text.getvalue()
  lines = [line for line in text.getvalue().splitlines() if ' 360 │' in line]
  assert len(lines) == len(FORMATS)
  for line, entry in zip(lines, described['artefacts'], strict=True):
    assert entry['file'] in line
    assert f'{entry["bytes"]:,}' in line
    assert f'{entry["accuracy"]:.2f} %' in line
  narrow = io.StringIO()
  card.show(described, rich.console.Console(file=narrow, width=44))
  assert '…' not in narrow.getvalue()
  for entry in described['artefacts']:
    for shown in (entry['file'], f'{entry["bytes"]:,}'):
      assert shown in narrow.getvalue()
  assert max(map(len, narrow.getvalue().splitlines()[1:])) <= 44


@pytest.mark.slow
def test_deploy_file_of_another_network_raises(run_copy, monkeypatch):
  out = run_copy / 'small'
  out.mkdir()
  (out / 'model.stablehlo').write_bytes(b'old')
  fold = make._fold

  def fold_wrongly(*arguments):
    params = fold(*arguments)
    params['head']['bias'] = params['head']['bias'] + 1e-2
    return params

  monkeypatch.setattr(make, '_fold', fold_wrongly)
  with pytest.raises(errors.InvalidError, match='is not the trained network'):
    make.deploy(run_copy, out, ('stablehlo',))
  assert {path.name for path in out.iterdir()} == {'model.stablehlo'}
  assert (out / 'model.stablehlo').read_bytes() == b'old'


def test_compare_errors_are_relative_to_the_largest_logit(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'1')
  # A network whose weights are all 0 has logits of 0 alone.
  expected = np.array([[0.0, 4.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
  error = np.array([[0.0, 2e-4], [0.0, 0.0], [2e-4, 0.0], [np.nan, 0.0]])
  found = expected + error
  result = check.compare(path, found, expected, np.zeros(4, int))
  assert result['equal_logits'] == 2
  assert result['largest_error'] == np.inf
  result = check.compare(path, found[:3], expected[:3], np.zeros(3, int))
  assert result['largest_error'] == 2e-4


def comparison(count, different, inaccurate, largest=1e-1, kind='images'):
  """Returns a list of one result of `check.compare`."""
  return [
    {
      'file': 'model.onnx',
      kind: count,
      'equal_predictions': count - different,
      'equal_logits': count - inaccurate,
      'largest_error': largest,
    }
  ]


def test_check_artefacts_inexact_tolerates_borderline_predictions():
  check.check_artefacts(comparison(10_000, 0, 0), exact=True, hint='')
  # If activations are rounded, one prediction in a thousand may differ.
  check.check_artefacts(comparison(10_000, 10, 9_000), exact=False, hint='')


def test_check_artefacts_exact_tolerates_rare_amplified_tokens():
  fine = comparison(100_000, 0, 5, 9e-4, 'tokens')
  check.check_artefacts(fine, exact=True, hint='')
  for different, inaccurate, largest, kind in (
    (0, 6, 9e-4, 'tokens'),
    (0, 1, 2e-3, 'tokens'),
    (0, 1, np.inf, 'tokens'),
    (1, 5, 9e-4, 'tokens'),
    (0, 1, 9e-4, 'images'),
  ):
    other = comparison(100_000, different, inaccurate, largest, kind)
    with pytest.raises(errors.InvalidError, match='Nothing was written'):
      check.check_artefacts(other, exact=True, hint='')


@pytest.mark.parametrize(
  ('different', 'inaccurate', 'exact'),
  [(1, 0, True), (0, 1, True), (11, 0, False)],
)
def test_check_artefacts_of_another_network_raises(
  different, inaccurate, exact
):
  with pytest.raises(errors.InvalidError, match='Nothing was written'):
    check.check_artefacts(comparison(10_000, different, inaccurate), exact, '')


def test_compare_nan_is_infinite_error():
  found = np.array([[1.0, np.nan], [2.0, 1.0]])
  expected = np.array([[1.0, 0.5], [2.0, 1.0002]])
  path = pathlib.Path(__file__)
  entry = check.compare(path, found, expected, np.array([0, 0]))
  assert (entry['largest_error'], entry['equal_logits']) == (np.inf, 1)


@pytest.mark.slow
def test_deploy_accuracy_unequal_to_log_raises(run_copy):
  file = run_copy / 'quantized.safetensors'
  model = model_file.load_model(file)
  accuracy = {'accuracy': str(float(model.metadata['accuracy']) + 1)}
  model_file.save_model(file, model.params, model.batch_stats, accuracy)
  with pytest.raises(errors.InvalidError, match='Use the data of the run'):
    make.deploy(run_copy, run_copy / 'small')
  # The new folder is removed.
  assert not (run_copy / 'small').exists()


@pytest.mark.slow
def test_deploy_replaces_files_of_earlier_call(deployed, tmp_path):
  out, _, _ = deployed
  new = tmp_path / 'small'
  shutil.copytree(out, new)
  (new / 'notes.txt').write_text('mine')
  folder = tmp_path / 'files'
  folder.mkdir()
  shutil.copy(out / 'model.stablehlo', folder)
  described = json.loads((out / 'card.json').read_text())
  make._move_files(folder, new, described)
  assert {path.name for path in new.iterdir()} == {
    'notes.txt',
    'model.stablehlo',
    'card.json',
    'CARD.md',
  }


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['file', 'below a file', 'unwritable'])
def test_deploy_unwritable_folder_raises_before_work(
  run_copy, kind, monkeypatch
):
  monkeypatch.setattr(make, '_make_files', None)  # Not called.
  out = run_copy / 'small'
  if kind == 'unwritable':
    if os.geteuid() == 0:
      out = pathlib.Path('/proc/small')
    else:
      out.mkdir(mode=0o500)
  else:
    out.write_text('mine')
    out = out / 'below' if kind == 'below a file' else out
  with pytest.raises(errors.InvalidError, match='is not writable'):
    make.deploy(run_copy, out)


@pytest.mark.slow
def test_deploy_norms_before_quantized_activations_are_kept(tmp_path):
  net = write_run(
    tmp_path,
    mq_jax.dorefa(2),
    quantizer='dorefa',
    bits=2,
    activation_quantizer='dorefa',
    activation_bits=2,
  )
  out = tmp_path / 'small'
  described = make.deploy(tmp_path, out, ['safetensors'])
  packed = mq_jax.load_packed(out / 'packed.safetensors')
  assert 'mean' in packed.model_state['stem_norm']
  # The statistics are a part of the sizes on the page.
  table = str(mq_jax.summary(packed))
  assert 'model state' in table
  assert table.splitlines()[-1] in (out / 'CARD.md').read_text()
  (entry,) = described['artefacts']
  found = artefact_logits(out / entry['file'])
  expected = trained_logits(net, tmp_path)
  np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
  assert entry['equal_predictions'] == 360


@pytest.mark.slow
def test_load_of_a_link_to_a_name_without_suffix(deployed, tmp_path):
  # The cache of Hugging Face has such links.
  out, described, _ = deployed
  name = make.FORMATS['stablehlo']
  shutil.copy(out / name, tmp_path / 'blob')
  (tmp_path / name).symlink_to('blob')
  found = artefact_logits(tmp_path / name).argmax(1) == digits_labels()
  assert 100 * found.mean() == described['artefacts'][1]['accuracy']


def test_check_accuracy_of_a_file_without_accuracy_raises():
  model = model_file.ModelFile({}, {}, {})
  with pytest.raises(errors.InvalidError, match='has no accuracy'):
    check.check_accuracy(50.0, model)


@pytest.mark.slow
def test_deploy_binary_network_counts_bits(tmp_path, monkeypatch):
  # On other platforms the program multiplies, so only a CPU shows an error.
  monkeypatch.setenv('JAX_PLATFORMS', 'a platform that is missing')
  net = write_run(
    tmp_path, activation_quantizer='bi_real', float_layers='(stem|head)/kernel'
  )
  out = tmp_path / 'small'
  described = make.deploy(tmp_path, out, ['stablehlo'], count_bits=True)
  program = jax.export.deserialize(
    bytearray((out / 'model.stablehlo').read_bytes())
  )
  assert 'stablehlo.popcnt' in program.mlir_module()
  expected = trained_logits(net, tmp_path).argmax(1)
  (entry,) = described['artefacts']
  monkeypatch.delenv('JAX_PLATFORMS')
  found = artefact_logits(out / entry['file']).argmax(1)
  assert np.sum(found != expected) == 360 - entry['equal_predictions']
  assert entry['equal_predictions'] >= 359


@pytest.mark.parametrize(
  ('activation', 'kind', 'message'),
  [
    ('sign', 'onnx', 'ONNX cannot count bits'),
    ('dorefa', 'stablehlo', 'are dorefa. Leave it out'),
  ],
)
def test_check_count_bits_network_without_binary_convolution_raises(
  activation, kind, message
):
  config = digits_config(activation_quantizer=activation)
  with pytest.raises(errors.InvalidError, match=message):
    make._check_count_bits(config, [kind])


@pytest.mark.slow
def test_deploy_invalid_request_raises_before_work(tmp_path, monkeypatch):
  with pytest.raises(errors.InvalidError, match='--format=tflite'):
    make.deploy(tmp_path, tmp_path / 'small', ['tflite'])
  with pytest.raises(errors.MissingError, match='contains no run'):
    make.deploy(tmp_path, tmp_path / 'small')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.MissingError, match=r"'\.\[experiments,onnx\]'"):
    make.deploy(tmp_path, tmp_path / 'small', ['onnx'])
  assert not (tmp_path / 'small').exists()


@pytest.mark.slow
@pytest.mark.skipif(
  not HAS_ONNX, reason='jax2onnx and onnxruntime are not installed'
)
def test_deploy_onnx_model_equals_trained_network(tmp_path):
  import onnx

  net = write_run(tmp_path)
  out = tmp_path / 'small'
  described = make.deploy(tmp_path, out, ['onnx'])
  found = artefact_logits(out / 'model.onnx')
  expected = trained_logits(net, tmp_path)
  np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
  classes = loading.load(out / 'model.onnx').classes
  assert classes == datasets.load('digits').class_names
  model = onnx.load(out / 'model.onnx')
  onnx.checker.check_model(model)
  # The model stores bits. It stores no unpacked kernel.
  largest = max(int(np.prod(node.dims)) for node in model.graph.initializer)
  assert largest == 3 * 3 * 64 * 64 // 8
  assert described['artefacts'][0]['bytes'] < 60_000


def predict_without(packages, *arguments):
  """Runs `experiments.predict` in a process without the given packages."""
  code = (
    'import runpy, sys\n'
    f'for name in {packages}: sys.modules[name] = None\n'
    'runpy.run_module("experiments.predict", run_name="__main__")\n'
  )
  return subprocess.run(
    [sys.executable, '-c', code, *arguments], capture_output=True, text=True
  )


@pytest.mark.slow
def test_predict_runs_without_training_code(deployed, tmp_path):
  out, _, expected = deployed
  images = datasets.load('digits').test_images[:2]
  paths = [str(tmp_path / f'{i}.png') for i in range(2)]
  for path, image in zip(paths, images, strict=True):
    Image.fromarray(image).save(path)
  packages = ('flax', 'mq_jax', 'ml_collections', 'absl', 'optax', 'rich')
  process = predict_without(packages, out / 'model.stablehlo', *paths)
  assert process.returncode == 0, process.stderr
  shares = np.exp(expected[:2]) / np.exp(expected[:2]).sum(1, keepdims=True)
  assert process.stdout.splitlines() == [
    f'{path}\t{share.argmax()}\t{100 * share.max():.1f}%'
    for path, share in zip(paths, shares, strict=True)
  ]
  # A file of weights needs the code of the network.
  process = predict_without(packages, out / 'packed.safetensors', *paths)
  assert process.returncode == 1
  assert "needs the training code's packages" in process.stderr
  assert 'Traceback' not in process.stderr


@pytest.mark.slow
def test_predict_accepts_any_image_size_and_reports_errors(deployed, tmp_path):
  out, _, expected = deployed
  program = out / 'model.stablehlo'
  image = datasets.load('digits').test_images[0]
  large, grey = str(tmp_path / 'large.png'), str(tmp_path / 'grey.png')
  Image.fromarray(image.repeat(3, 0).repeat(3, 1)).save(large)
  Image.fromarray(image[..., 0]).save(grey)
  for path in (large, grey):
    ((shown_path, classes),) = predict.predict(program, [path], top=3)
    assert shown_path == path
    assert classes[0][0] == str(expected[0].argmax())
    assert len(classes) == 3
  text = tmp_path / 'text.png'
  text.write_text('no image')
  deep = tmp_path / 'deep.png'
  Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(deep)
  for path, message in (
    (str(text), 'is not an image'),
    (str(deep), 'more than 8 bits per channel'),
    (str(tmp_path / 'none.png'), 'There is no image'),
  ):
    with pytest.raises(errors.UserError, match=message):
      list(predict.predict(program, [path]))


@pytest.mark.slow
def test_load_artefact_of_wrong_kind_raises(deployed, tmp_path):
  out, _, _ = deployed
  content = (out / 'model.stablehlo').read_bytes()
  for name, damaged, message in (
    ('cut.stablehlo', content[: len(content) // 2], 'is damaged'),
    ('text.stablehlo', b'hello', 'is damaged'),
    ('text.safetensors', b'hello', 'truncated, changed'),
    ('model.tflite', b'', 'must end in one of .*to be an artefact'),
  ):
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(errors.InvalidError, match=message):
      loading.load(tmp_path / name)
  with pytest.raises(errors.MissingError, match='There is no file'):
    loading.load(tmp_path / 'none.onnx')
  with pytest.raises(errors.InvalidError, match=r'is a folder\. Give a file'):
    loading.load(tmp_path)
  mq_jax.save_packed(
    tmp_path / 'other.safetensors',
    mq_jax.pack({'w': jnp.ones((2, 2))}, mq_jax.bwn()),
  )
  with pytest.raises(errors.InvalidError, match='not describe its network'):
    loading.load(tmp_path / 'other.safetensors')


@pytest.mark.slow
def test_load_model_file_names_the_command_that_packs_it(run_copy, tmp_path):
  (tmp_path / 'other').mkdir()
  other = tmp_path / 'other' / 'mine.safetensors'
  shutil.copy(run_copy / 'quantized.safetensors', other)
  for path, folder in (
    (run_copy / 'quantized.safetensors', re.escape(str(run_copy))),
    (other, 'RUN'),
  ):
    message = rf'not packed.*deploy --workdir={folder} --out=FOLDER$'
    with pytest.raises(errors.InvalidError, match=message):
      loading.load(path)


@pytest.mark.slow
def test_load_artefact_takes_classes_from_its_card(deployed, tmp_path):
  out, described, _ = deployed
  path = tmp_path / 'model.stablehlo'
  shutil.copy(out / 'model.stablehlo', path)
  assert loading.load(path).classes == ()
  # An edited card needs no digest.
  card = sealed.unseal(out, json.loads((out / 'card.json').read_text()))
  text = json.dumps(card)
  for content, names in (
    ('{"artef', ()),
    ('{}', ()),
    (text, tuple(described['classes'])),
    (text.replace('sha256', 'sha'), ()),
    (text.replace('model.stablehlo', 'other.stablehlo'), ()),
  ):
    (tmp_path / 'card.json').write_text(content)
    notices = []
    assert loading.load(path, notify=notices.append).classes == names
    assert len(notices) == (names == ())


@pytest.mark.slow
@pytest.mark.parametrize('kind', FORMATS)
def test_load_artefact_other_than_its_card_raises(deployed, tmp_path, kind):
  out, _, _ = deployed
  path = tmp_path / make.FORMATS[kind]
  shutil.copy(out / 'card.json', tmp_path)
  path.write_bytes((out / path.name).read_bytes() + b' ')
  with pytest.raises(errors.InvalidError, match=r'SHA-256 differs.*move the'):
    loading.load(path)


def test_load_program_of_another_kind_raises(tmp_path):
  path = tmp_path / 'model.stablehlo'
  path.write_bytes(another_program((None, 8), np.float32))
  with pytest.raises(errors.InvalidError, match='not uint8 images'):
    loading.load(path)
  path.write_bytes(another_program((None, 32, 32, 3), np.uint8))
  with pytest.raises(errors.InvalidError, match='not float32 logits'):
    loading.load(path)


def another_program(shape, dtype):
  """Exports a program that adds 1 to an array of this shape and dtype."""
  sizes = (*jax.export.symbolic_shape('n'), *shape[1:])
  exported = jax.export.export(jax.jit(lambda x: x + 1))
  return exported(jax.ShapeDtypeStruct(sizes, dtype)).serialize()


@pytest.mark.slow
def test_deployed_table_has_a_row_per_file(deployed, tmp_path):
  out, described, _ = deployed
  cards.enter(tmp_path, described)
  (read,) = cards.read_cards(tmp_path)
  assert read == described
  assert (tmp_path / 'deployed' / f'{read["name"]}.json').read_bytes() == (
    out / 'card.json'
  ).read_bytes()
  table = deployed_table.deployed_table([read])
  assert len(table.rows) == len(FORMATS)
  for row, entry in zip(table.rows, read['artefacts'], strict=True):
    assert len(row) == len(table.columns)
    assert f'{entry["bytes"]:,}' in row
    assert f'{entry["accuracy"]:.2f} %' in row
  assert cards.read_cards(tmp_path / 'elsewhere') == []
