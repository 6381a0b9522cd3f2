"""Tests files of language models whose numbers, or whose runtime, round."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from experiments import sample
from experiments.build.networks import make_network
from experiments.build.parts import make_parts
from experiments.common.errors import ConfigError, InvalidError
from experiments.configs import gpt
from experiments.data import text
from experiments.deploy import card, make, onnx_kernels
from experiments.records import model_file, workdir
from tests.experiments import tiny

CONTEXT = 16
TEXT = np.random.default_rng(1).integers(97, 123, 6000, np.uint8).tobytes()


def write_run(folder, **changes):
  """Writes a complete run whose language model has random weights."""
  path = folder / 'text.txt'
  path.write_bytes(TEXT)
  config = gpt.get_config(
    **{'depth': 2, 'heads': 2, 'embed_dim': 32, 'context': CONTEXT}
    | {'data': str(path), 'activation_quantizer': 'relu', 'activation_bits': 2}
    | changes
  )
  net = make_network(config, 256)
  params = net.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))['params']
  params = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)
  rules = make_parts(config, steps_per_epoch=1).rules
  params = mq_jax.unpack(mq_jax.pack(params, rules))
  examples = make.test_examples(config)
  (tokens,) = examples.batches(len(examples.labels))
  apply = jax.jit(lambda x: net.apply({'params': params}, x, train=False))
  right = apply(tokens.astype(np.int32)).argmax(-1) == examples.labels
  model_file.save_model(
    folder / 'quantized.safetensors',
    params,
    {},
    {'accuracy': f'{100 * right.mean():.2f}'},
  )
  tiny.write_header(folder, config)
  return path


@pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime'))),
  reason='jax2onnx and onnxruntime are not installed',
)
@pytest.mark.parametrize('few', [True, False])
def test_onnx_of_few_bits_has_a_row_with_rounded_inputs(
  tmp_path, monkeypatch, capsys, few
):
  if few:
    monkeypatch.setattr(onnx_kernels, 'SMALLEST', 1)
  write_run(tmp_path)
  described = make.deploy(tmp_path, tmp_path / 'out', ['onnx'])
  card.show(described)
  exact, *rounded = described['artefacts']
  assert exact['largest_error'] < 1e-4
  # Two blocks have four projections of attention and three of the MLP each.
  assert described['packed_layers'] == 14
  assert described['direct_layers'] == (14 if few else 0)
  page = (tmp_path / 'out' / make.PAGE).read_text()
  assert ('| model.onnx, rounded inputs |' in page) is few
  assert ('float32 inputs' in page) is few
  products = (
    'can multiply by the few bits of 14 of 14 packed layers.'
    if few
    else 'unpacks all 14 packed layers to float32.'
  )
  assert products in page
  assert products in capsys.readouterr().out.replace('\n', ' ')
  if few:
    (entry,) = rounded
    assert entry['file'] == 'model.onnx'
    assert entry['equal_logits'] < entry['tokens']
    assert entry['equal_predictions'] >= 0.98 * entry['tokens']
    monkeypatch.setattr(make.check, 'ROUNDED', 0)
    if entry['equal_predictions'] < entry['tokens']:
      with pytest.raises(InvalidError, match=r'model\.onnx is not the trained'):
        make.deploy(tmp_path, tmp_path / 'out', ['onnx'])
  else:
    assert not rounded


@pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime'))),
  reason='jax2onnx and onnxruntime are not installed',
)
@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'quantizer': 'dorefa', 'bits': 8},
    {'quantizer': 'bwn', 'group_size': 8},
  ],
)
def test_onnx_of_small_kernels_is_smaller_than_float32(tmp_path, changes):
  write_run(tmp_path, embed_dim=64, depth=4, **changes)
  make.deploy(tmp_path, tmp_path / 'out', ['onnx'])
  trained = (tmp_path / 'quantized.safetensors').stat().st_size
  assert (tmp_path / 'out' / 'model.onnx').stat().st_size < 0.7 * trained


@pytest.mark.skipif(
  not importlib.util.find_spec('gguf'), reason='gguf is not installed'
)
@pytest.mark.parametrize(
  ('changes', 'name'),
  [
    ({}, 'model.gguf, rounded scales'),
    ({'quantizer': 'bwn', 'group_size': 16}, 'model.gguf'),
  ],
)
def test_gguf_of_integers_rounds_scales(tmp_path, changes, name):
  write_run(tmp_path, **changes)
  described = make.deploy(tmp_path, tmp_path / 'out', ['gguf'])
  (entry,) = described['artefacts']
  assert entry['equal_predictions'] >= 0.98 * entry['tokens']
  page = (tmp_path / 'out' / make.PAGE).read_text()
  assert f'| {name} |' in page
  assert ('float16' in page) is ('rounded' in name)


@pytest.mark.parametrize(
  'changes',
  [
    {'activation_quantizer': 'sign'},
    {'activation_quantizer': 'absmax', 'activation_bits': 4},
  ],
)
def test_gguf_of_other_activations_is_refused(tmp_path, changes):
  write_run(tmp_path, **changes)
  with pytest.raises(InvalidError, match=r'rounds .* to 8 bits.* Leave gguf'):
    make.deploy(tmp_path, tmp_path / 'out', ['gguf'])
  assert not (tmp_path / 'out').exists()


def test_count_bits_of_a_language_model_is_refused(tmp_path):
  write_run(tmp_path, activation_quantizer='sign')
  with pytest.raises(InvalidError, match="network='gpt' does not have"):
    make.deploy(tmp_path, tmp_path / 'out', count_bits=True)


def test_deploy_changed_documentation_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'docs').mkdir()
  (tmp_path / 'README.md').write_bytes(TEXT)
  monkeypatch.setattr(text, '_ROOT', tmp_path)
  write_run(tmp_path, data='')
  log = tmp_path / workdir.LOG
  header = json.loads(log.read_text())
  header['start'] = {'data': text.text_digest(text.read_text(''))}
  log.write_text(json.dumps(header) + '\n')
  make.deploy(tmp_path, tmp_path / 'out', ['safetensors'])
  (tmp_path / 'docs' / 'page.md').write_bytes(b'abc')
  with pytest.raises(InvalidError, match=r'documentation .* other contents'):
    make.deploy(tmp_path, tmp_path / 'out', ['safetensors'])


def test_shortened_text_is_refused(tmp_path):
  write_run(tmp_path).write_bytes(b'short')
  with pytest.raises(
    ConfigError, match=r'has 5 bytes.*use the text of the run'
  ):
    make.deploy(tmp_path, tmp_path / 'out')


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('context', '"x"', "context='x' must be an integer"),
    ('context', '-3', 'context=-3'),
    ('vocabulary', '300', 'vocabulary=300 must be .* to 256'),
    ('context', '{', 'does not describe its network'),
  ],
)
def test_forged_sizes_are_refused(tmp_path, name, text, message):
  write_run(tmp_path)
  make.deploy(tmp_path, tmp_path / 'out', ['safetensors'])
  packed = mq_jax.load_packed(tmp_path / 'out' / 'packed.safetensors')
  path = tmp_path / 'forged.safetensors'
  mq_jax.save_packed(
    path, packed._replace(metadata=packed.metadata | {name: text})
  )
  with pytest.raises(InvalidError, match=message):
    sample._open_artefact(path)
