"""Tests files for llama.cpp: exact integers, pairs of features, runs there."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from experiments.build.networks import make_network
from experiments.build.parts import make_parts
from experiments.common.errors import InvalidError, MissingError
from experiments.configs import gpt, resnet20
from experiments.data.raw_examples import Tokens
from experiments.deploy import artefact, gguf_file, packed_network
from experiments.deploy.integers import integers_of
from mq_jax.models.gpt import rotate
from mq_jax.packing.packed_array import packed_leaves

CONTEXT = 16
needs_gguf = pytest.mark.skipif(
  not importlib.util.find_spec('gguf'), reason='gguf is not installed'
)


def language_model(integers=None, **changes):
  """Returns packed random weights of a language model of two blocks.

  Args:
    integers: Smallest and largest multiple of 1/16 among the weights of blocks;
      None: the levels of the quantizer.
    **changes: Changes of the configuration.
  """
  config = gpt.get_config(
    **{'depth': 2, 'heads': 4, 'context': CONTEXT, 'embed_dim': 64}
    | {'activation_quantizer': 'relu', 'activation_bits': 2}
    | changes
  )
  net = make_network(config, 256)
  params = net.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))['params']
  # Larger than the start of a training, so that attention is not uniform.
  params = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)
  if integers:
    least, most = integers
    params = jax.tree.map(
      lambda x: jnp.int32(200 * x).clip(least, most) / 16 if x.ndim > 2 else x,
      params,
    )
  return mq_jax.pack(
    params,
    make_parts(config, steps_per_epoch=1).rules,
    quantized=bool(integers),
    metadata=packed_network.make_metadata(config, Tokens((CONTEXT,), 256)),
  )


def tokens():
  return np.random.default_rng(0).integers(0, 256, (3, CONTEXT), np.uint8)


EIGHT_BITS = {'quantizer': 'dorefa', 'bits': 8}
CASES = {
  'TQ2_0': {'embed_dim': 256},
  'Q4_0': {'quantizer': 'seq'},
  'Q8_0': {'quantizer': 'dorefa', 'bits': 4},
  # Groups of 32 inputs do not fit into blocks of 256.
  'Q4_0 of groups': {'quantizer': 'bwn', 'group_size': 32, 'embed_dim': 256},
  'Q4_0 of sixteen integers': {'integers': (-8, 7)} | EIGHT_BITS,
  'Q8_0 of seventeen integers': {'integers': (-8, 8)} | EIGHT_BITS,
}


@needs_gguf
@pytest.mark.parametrize('case', CASES)
def test_gguf_has_the_integers_and_runs_as_the_network(tmp_path, case):
  import gguf

  packed = language_model(**CASES[case])
  path = tmp_path / 'model.gguf'
  gguf_file.write(path, packed)
  reader = gguf.GGUFReader(path)
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  kind = case.partition(' ')[0]
  names = [name for name in tensors if tensors[name].tensor_type.name == kind]
  assert len(names) == 14
  kernel = packed_leaves(packed.params)['blocks/mlp/down/kernel']
  for number, (integers, scales) in enumerate(integers_of(kernel)):
    tensor = tensors[f'blk.{number}.ffn_down.weight']
    found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    half = scales.T.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, integers.T * half)
  network = artefact.open_here(path)
  assert (network.shape, network.takes_text) == ((CONTEXT,), True)
  logits = network.logits(tokens())
  expected = packed_network.compiled_logits(packed)(tokens())
  # float16 has 11 bits.
  assert np.abs(logits - expected).max() < 3e-3 * np.abs(expected).max()


@needs_gguf
def test_gguf_of_a_tied_head_has_no_output(tmp_path):
  packed = language_model(tied=True, quantize_ends=True)
  path = tmp_path / 'model.gguf'
  gguf_file.write(path, packed)
  logits = artefact.open_here(path).logits(tokens())
  expected = packed_network.compiled_logits(packed)(tokens())
  assert np.abs(logits - expected).max() < 3e-3 * np.abs(expected).max()
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(InvalidError, match=r'model\.gguf is damaged'):
    artefact.open_here(path)


@needs_gguf
@pytest.mark.skipif(
  not importlib.util.find_spec('llama_cpp'),
  reason='llama-cpp-python is not installed',
)
@pytest.mark.parametrize('case', CASES)
def test_gguf_runs_in_llama_cpp(tmp_path, case):
  import llama_cpp

  rounded = {'activation_quantizer': 'absmax', 'activation_bits': 8}
  packed = language_model(**rounded, **CASES[case])
  path = tmp_path / 'model.gguf'
  gguf_file.write(path, packed)
  model = llama_cpp.Llama(
    str(path), n_ctx=CONTEXT, logits_all=True, verbose=False
  )
  text = 'A b\né'.encode()
  assert model.tokenize(text, add_bos=False) == [*text]
  assert model.detokenize([*text]) == text
  (row, *_) = tokens()
  model.eval(row.tolist())
  expected = packed_network.compiled_logits(packed)(row[None])[0]
  found = np.asarray(model.scores[:CONTEXT])
  # It rounds the inputs of products to 8 bits.
  assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_rotated_kernels_give_the_scores_of_adjacent_pairs():
  heads, features, count = 2, 8, 5
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, features))
  kernels = rng.normal(size=(2, features, features))

  def adjacent(x):
    """Turns features 2i and 2i + 1 by position / 10000^(2i / features)."""
    x = x.reshape(count, heads, -1, 2)
    half = x.shape[2]
    angles = np.outer(np.arange(count), 10000.0 ** (-np.arange(half) / half))
    turned = (x[..., 0] + 1j * x[..., 1]) * np.exp(1j * angles)[:, None]
    return np.stack([turned.real, turned.imag], -1).reshape(count, heads, -1)

  def ours(x):
    shaped = jnp.asarray(x).reshape(1, count, heads, -1)
    return np.asarray(rotate(shaped, jnp.arange(count)))[0]

  query, key = (ours(x @ kernel) for kernel in kernels)
  moved_query, moved_key = (
    adjacent(x @ gguf_file._rotated('blk.0.attn_q', kernel.T, None, heads)[0].T)
    for kernel in kernels
  )
  np.testing.assert_allclose(
    np.einsum('qhf,khf->hqk', moved_query, moved_key),
    np.einsum('qhf,khf->hqk', query, key),
    rtol=1e-5,
    atol=1e-5,
  )


def test_check_network_refuses_images_and_missing_package(monkeypatch):
  with pytest.raises(
    InvalidError, match=r"network='resnet20'\. Leave gguf out"
  ):
    gguf_file.check_network(resnet20.get_config())
  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(MissingError, match='pip install gguf'):
    gguf_file.check_network(gpt.get_config())
