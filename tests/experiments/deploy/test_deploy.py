"""Deployed networks are those that were trained, in files that run alone."""

import importlib.util
import io
import json
import os
import pathlib
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
from experiments import predict
from experiments.build import train_step
from experiments.common import errors
from experiments.configs import digits
from experiments.data import datasets
from experiments.deploy import artefact, card, check, make
from experiments.records import model_file
from experiments.report import deployed_table
from mq_jax import models
from mq_jax.selection import named_leaves, replace

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


def finished_run(workdir, method=None, **changes):
  """The folder of a run whose ResNet8 has random weights and statistics."""
  config = digits_config(**changes)
  activation = train_step.ACTIVATIONS[config.activation_quantizer](
    config.activation_bits
  )
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
  header = {
    'date': '2026-01-01',
    'config': config.to_dict(),
    'device': {'kind': 'cpu', 'platform': 'cpu', 'count': 1},
    'versions': {'jax': '0', 'mq_jax': '0'},
    'commit': 'abc',
    'dirty': False,
  }
  (workdir / 'metrics.jsonl').write_text(json.dumps(header) + '\n')
  return net


def trained_logits(net, workdir):
  model, dataset = (
    model_file.load_model(workdir / 'quantized.safetensors'),
    datasets.load('digits'),
  )
  images = (dataset.test_images / 255 - dataset.mean) / dataset.std
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  apply = jax.jit(lambda variables, x: net.apply(variables, x, train=False))
  return np.asarray(apply(variables, images.astype(np.float32)))


@pytest.fixture(scope='module')
def deployed(tmp_path_factory):
  """A run, what was made of it, and the logits that it should have."""
  workdir = tmp_path_factory.mktemp('run')
  net = finished_run(workdir)
  out = workdir / 'small'
  described = make.deploy(workdir, out, FORMATS)
  return out, described, trained_logits(net, workdir)


@pytest.fixture
def again(deployed, tmp_path):
  """A copy of that run's folder."""
  for name in ('metrics.jsonl', 'quantized.safetensors'):
    shutil.copy(deployed[0].parent / name, tmp_path)
  return tmp_path


@pytest.mark.parametrize('kind', FORMATS)
def test_each_file_is_the_trained_network(deployed, kind):
  out, described, expected = deployed
  network = artefact.load(out / make.FORMATS[kind])
  dataset = datasets.load('digits')
  logits = artefact.in_batches(network.logits, dataset.test_images)
  error = np.abs(logits - expected).max(1) / np.abs(expected).max(1)
  assert error.max() < 1e-4
  np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
  # Any number of images, from one up.
  np.testing.assert_allclose(
    network.logits(dataset.test_images[:1]), logits[:1], rtol=1e-4, atol=1e-4
  )
  assert (network.shape, network.classes) == ((32, 32), dataset.class_names)
  (told,) = [
    one for one in described['artefacts'] if one['file'] == make.FORMATS[kind]
  ]
  assert told['bytes'] == (out / told['file']).stat().st_size
  assert told['equal_predictions'] == told['images'] == 360
  assert told['largest_error'] == pytest.approx(error.max(), abs=1e-6)
  right = expected.argmax(1) == dataset.test_labels
  assert told['accuracy'] == described['accuracy'] == 100 * right.mean()


def test_the_packed_file_is_integers_and_norms(deployed):
  out, described, _ = deployed
  packed = mq_jax.load_packed(out / 'packed.safetensors')
  assert packed.model_state == {}
  leaves = named_leaves(mq_jax.unpack(packed))
  for path, leaf in leaves.items():
    if path == 'head/kernel':
      # No norm follows that could take its scale.
      assert len(np.unique(np.abs(leaf))) == 1
    elif path.endswith('kernel'):
      np.testing.assert_array_equal(np.unique(leaf), [-1, 1])
    else:
      assert path.rpartition('/')[2] in ('scale', 'shift', 'bias')
  weights = sum(x.size for p, x in leaves.items() if p.endswith('kernel'))
  others = sum(x.size for p, x in leaves.items() if not p.endswith('kernel'))
  layers = sum(path.endswith('kernel') for path in leaves)
  stored = sum(layer['bytes'] for layer in described['layers'])
  # Whole bytes of bits, a scale for each layer, float32 for the rest.
  assert 0 <= stored - (weights / 8 + 4 * layers + 4 * others) < layers
  assert 10 * stored < described['trained_bytes'] * 1.2


def test_the_program_holds_packed_weights_for_both_platforms(deployed):
  out, _, _ = deployed
  program = jax.export.deserialize(
    bytearray((out / 'model.stablehlo').read_bytes())
  )
  assert program.platforms == ('cpu', 'cuda')
  text = program.mlir_module()
  assert 'tensor<4608xui8>' in text  # 3·3·64·64 / 8
  constants = [line for line in text.splitlines() if 'dense<' in line]
  assert not [line for line in constants if 'tensor<3x3x64x64xf32>' in line]


def test_the_card_says_what_there_is_to_know(deployed):
  out, described, _ = deployed
  told = json.loads((out / 'card.json').read_text())
  assert told == described
  page = (out / 'CARD.md').read_text()
  for text in (
    'resnet8 for digits', 'model.stablehlo', 'packed.safetensors', '360 of 360',
    'stage1/block0/conv1/kernel', 'commit abc', 'seed 0',
  ):  # fmt: skip
    assert text in page, text
  convolution = described['layers'][
    [layer['path'] for layer in described['layers']].index(
      'stage1/block0/conv1/kernel'
    )
  ]
  assert convolution['macs'] == 32 * 32 * 9 * 16 * 16


def test_the_command_shows_what_each_file_is_worth(deployed):
  _, described, _ = deployed
  text = io.StringIO()
  card.show(described, rich.console.Console(file=text, width=80))
  assert 'of 360' in text.getvalue()
  lines = [line for line in text.getvalue().splitlines() if ' 360 │' in line]
  assert len(lines) == len(FORMATS)
  for line, one in zip(lines, described['artefacts'], strict=True):
    assert one['file'] in line
    assert f'{one["bytes"]:,}' in line
    assert f'{one["accuracy"]:.2f}%' in line


def test_a_file_that_is_another_network_is_refused(again, monkeypatch):
  out = again / 'small'
  out.mkdir()
  (out / 'model.stablehlo').write_bytes(b'old')
  folded = make._folded

  def wrong(*arguments):
    params = folded(*arguments)
    params['head']['bias'] = params['head']['bias'] + 1e-2
    return params

  monkeypatch.setattr(make, '_folded', wrong)
  with pytest.raises(errors.InvalidError, match='is not the trained network'):
    make.deploy(again, out, ('stablehlo',))
  assert {path.name for path in out.iterdir()} == {'model.stablehlo'}
  assert (out / 'model.stablehlo').read_bytes() == b'old'


def compared(images, others, far):
  return [
    {
      'file': 'model.onnx',
      'images': images,
      'equal_predictions': images - others,
      'equal_logits': images - far,
      'largest_error': 1e-1,
    }
  ]


def test_how_far_a_file_may_be_from_the_trained_network():
  check.check(compared(10_000, 0, 0), exact=True, hint='')
  # Rounded activations: one prediction in a thousand.
  check.check(compared(10_000, 10, 9_000), exact=False, hint='')
  for others, far, exact in ((1, 0, True), (0, 1, True), (11, 0, False)):
    with pytest.raises(errors.InvalidError, match='Nothing was written'):
      check.check(compared(10_000, others, far), exact, '')
  found = np.array([[1.0, np.nan], [2.0, 1.0]])
  path = pathlib.Path(__file__)
  one = check.compared(
    path, found, np.array([[1.0, 0.5], [2.0, 1.0002]]), np.array([0, 0])
  )
  assert (one['largest_error'], one['equal_logits']) == (np.inf, 1)


def test_a_network_that_had_another_accuracy_is_refused(again):
  file = again / 'quantized.safetensors'
  model = model_file.load_model(file)
  accuracy = {'accuracy': str(float(model.metadata['accuracy']) + 1)}
  model_file.save_model(file, model.params, model.batch_stats, accuracy)
  with pytest.raises(
    errors.InvalidError, match='are the data those of the run'
  ):
    make.deploy(again, again / 'small')
  # A folder that was made for it is gone.
  assert not (again / 'small').exists()


def test_what_an_earlier_call_made_goes(deployed, tmp_path):
  out, _, _ = deployed
  new = tmp_path / 'small'
  shutil.copytree(out, new)
  (new / 'notes.txt').write_text('mine')
  folder = tmp_path / 'made'
  folder.mkdir()
  shutil.copy(out / 'model.stablehlo', folder)
  described = json.loads((out / 'card.json').read_text())
  make._put(folder, new, ['stablehlo'], described)
  assert {path.name for path in new.iterdir()} == {
    'notes.txt', 'model.stablehlo', 'card.json', 'CARD.md'
  }  # fmt: skip


@pytest.mark.parametrize('there', ['file', 'below a file', 'unwritable'])
def test_a_folder_that_cannot_be_written_to_is_said_first(
  again, there, monkeypatch
):
  monkeypatch.setattr(make, '_made', None)  # too late
  out = again / 'small'
  if there == 'unwritable':
    if os.geteuid() == 0:
      out = pathlib.Path('/proc/small')
    else:
      out.mkdir(mode=0o500)
  else:
    out.write_text('mine')
    out = out / 'below' if there == 'below a file' else out
  with pytest.raises(errors.InvalidError, match='cannot be written to'):
    make.deploy(again, out)


def test_norms_in_front_of_quantized_activations_stay(tmp_path):
  net = finished_run(
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
  for one in described['artefacts']:
    found = artefact.in_batches(
      artefact.load(out / one['file']).logits,
      datasets.load('digits').test_images,
    )
    expected = trained_logits(net, tmp_path)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert one['equal_predictions'] == 360


def test_binary_networks_count_bits_where_that_is_wanted(tmp_path):
  net = finished_run(
    tmp_path, activation_quantizer='bi_real', float_layers='(stem|head)/kernel'
  )
  out = tmp_path / 'small'
  described = make.deploy(tmp_path, out, ['stablehlo'], count_bits=True)
  program = jax.export.deserialize(
    bytearray((out / 'model.stablehlo').read_bytes())
  )
  assert 'stablehlo.popcnt' in program.mlir_module()
  expected = trained_logits(net, tmp_path).argmax(1)
  for one in described['artefacts']:
    network = artefact.load(out / one['file'])
    found = artefact.in_batches(
      network.logits, datasets.load('digits').test_images
    )
    assert np.sum(found.argmax(1) != expected) == 360 - one['equal_predictions']
    assert one['equal_predictions'] >= 359
  with pytest.raises(errors.InvalidError, match='ONNX cannot count bits'):
    make._check_bits(digits_config(activation_quantizer='sign'), ['onnx'])
  with pytest.raises(errors.InvalidError, match='are dorefa: leave it out'):
    make._check_bits(
      digits_config(activation_quantizer='dorefa'), ['stablehlo']
    )


def test_what_cannot_be_deployed_is_said_first(tmp_path, monkeypatch):
  with pytest.raises(errors.InvalidError, match='--format=tflite'):
    make.deploy(tmp_path, tmp_path / 'small', ['tflite'])
  with pytest.raises(errors.MissingError, match='no run stands in'):
    make.deploy(tmp_path, tmp_path / 'small')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.MissingError, match=r"'mq_jax\[experiments,onnx\]"):
    make.deploy(tmp_path, tmp_path / 'small', ['onnx'])
  assert not (tmp_path / 'small').exists()


@pytest.mark.skipif(
  not HAS_ONNX, reason='jax2onnx and onnxruntime are an extra with own pins'
)
def test_the_onnx_model_is_the_trained_network(tmp_path):
  import onnx

  net = finished_run(tmp_path)
  out = tmp_path / 'small'
  described = make.deploy(tmp_path, out, ['onnx'])
  network = artefact.load(out / 'model.onnx')
  found = artefact.in_batches(
    network.logits, datasets.load('digits').test_images
  )
  expected = trained_logits(net, tmp_path)
  np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
  assert network.classes == datasets.load('digits').class_names
  model = onnx.load(out / 'model.onnx')
  onnx.checker.check_model(model)
  # Bits, and no layer's weights beside them.
  largest = max(int(np.prod(one.dims)) for one in model.graph.initializer)
  assert largest == 3 * 3 * 64 * 64 // 8
  assert described['artefacts'][0]['bytes'] < 60_000


def blocked(*names):
  """Code that runs `experiments.predict` where these packages are missing."""
  return (
    'import runpy, sys\n'
    f'for name in {names}: sys.modules[name] = None\n'
    'runpy.run_module("experiments.predict", run_name="__main__")\n'
  )


def test_predict_needs_none_of_the_training_code(deployed, tmp_path):
  out, _, expected = deployed
  images = datasets.load('digits').test_images[:2]
  paths = [str(tmp_path / f'{i}.png') for i in range(2)]
  for path, image in zip(paths, images, strict=True):
    Image.fromarray(image).save(path)
  code = blocked('flax', 'mq_jax', 'ml_collections', 'absl', 'optax', 'rich')
  done = subprocess.run(
    [sys.executable, '-c', code, str(out / 'model.stablehlo'), *paths],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  shares = np.exp(expected[:2]) / np.exp(expected[:2]).sum(1, keepdims=True)
  assert done.stdout.splitlines() == [
    f'{path}\t{share.argmax()}\t{100 * share.max():.1f}%'
    for path, share in zip(paths, shares, strict=True)
  ]
  # The weights alone need the network's code, and say so.
  done = subprocess.run(
    [sys.executable, '-c', code, str(out / 'packed.safetensors'), *paths],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 1
  assert "needs the training code's packages" in done.stderr
  assert 'Traceback' not in done.stderr


def test_predict_takes_images_of_any_size_and_tells_what_is_wrong(
  deployed, tmp_path
):
  out, _, expected = deployed
  program = out / 'model.stablehlo'
  image = datasets.load('digits').test_images[0]
  large, grey = str(tmp_path / 'large.png'), str(tmp_path / 'grey.png')
  Image.fromarray(image.repeat(3, 0).repeat(3, 1)).save(large)
  Image.fromarray(image[..., 0]).save(grey)
  for path in (large, grey):
    ((told, classes),) = predict.predict(program, [path], top=3)
    assert told == path
    assert classes[0][0] == str(expected[0].argmax())
    assert len(classes) == 3
  text = tmp_path / 'text.png'
  text.write_text('no image')
  deep = tmp_path / 'deep.png'
  Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(deep)
  for path, message in (
    (str(text), 'is no image'),
    (str(deep), 'more than 8 bits a channel'),
    (str(tmp_path / 'none.png'), 'there is no image'),
  ):
    with pytest.raises(errors.UserError, match=message):
      list(predict.predict(program, [path]))


def test_artefacts_that_are_none_are_told_apart(deployed, tmp_path):
  out, _, _ = deployed
  whole = (out / 'model.stablehlo').read_bytes()
  for name, content, message in (
    ('cut.stablehlo', whole[: len(whole) // 2], 'is damaged'),
    ('text.stablehlo', b'hello', 'is damaged'),
    ('text.safetensors', b'hello', 'truncated, changed'),
    ('model.tflite', b'', 'an artefact ends in one of'),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.InvalidError, match=message):
      artefact.load(tmp_path / name)
  with pytest.raises(errors.MissingError, match='there is no file'):
    artefact.load(tmp_path / 'none.onnx')
  mq_jax.save_packed(
    tmp_path / 'other.safetensors',
    mq_jax.pack({'w': jnp.ones((2, 2))}, mq_jax.bwn()),
  )
  with pytest.raises(errors.InvalidError, match='what network it is'):
    artefact.load(tmp_path / 'other.safetensors')
  # Without its card, or with that of another file, classes have no names.
  alone = tmp_path / 'model.stablehlo'
  alone.write_bytes(whole)
  assert artefact.load(alone).classes == ()
  card_of_it = json.loads((out / 'card.json').read_text())
  for text, names in (
    ('{"artef', ()),
    ('{}', ()),
    (json.dumps(card_of_it), tuple(card_of_it['classes'])),
    (json.dumps(card_of_it).replace('sha256', 'sha'), ()),
  ):
    (tmp_path / 'card.json').write_text(text)
    assert artefact.load(alone).classes == names
  alone.write_bytes(another_program((None, 8), np.float32))
  with pytest.raises(errors.InvalidError, match='not uint8 images'):
    artefact.load(alone)
  alone.write_bytes(another_program((None, 32, 32, 3), np.uint8, ['tpu']))
  with pytest.raises(errors.InvalidError, match='does not run here'):
    artefact.load(alone).logits(np.zeros((1, 32, 32, 3), np.uint8))


def another_program(shape, dtype, platforms=('cpu',)):
  sizes = (*jax.export.symbolic_shape('n'), *shape[1:])
  exported = jax.export.export(jax.jit(lambda x: x + 1), platforms=platforms)
  return exported(jax.ShapeDtypeStruct(sizes, dtype)).serialize()


def test_cards_of_the_ledger_become_a_table(deployed, tmp_path):
  out, described, _ = deployed
  card.enter(tmp_path, described)
  (read,) = deployed_table.read_cards(tmp_path)
  assert read == json.loads((out / 'card.json').read_text())
  table = deployed_table.deployed_table([read])
  assert len(table.rows) == len(FORMATS)
  for row, one in zip(table.rows, read['artefacts'], strict=True):
    assert len(row) == len(table.columns)
    assert f'{one["bytes"]:,}' in row
    assert f'{one["accuracy"]:.2f} %' in row
  assert deployed_table.read_cards(tmp_path / 'elsewhere') == []
