"""Tests that kernels of few bits are exact in ONNX, and run there."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from experiments.build.networks import make_network
from experiments.configs import gpt
from experiments.data.raw_examples import Tokens
from experiments.deploy import artefact, check, export, packed_network
from experiments.deploy.onnx_kernels import (
  count_layers,
  few_bits,
  insert,
  kernels_of,
  use_products,
)
from mq_jax import methods
from mq_jax.packing.packed_array import packed_leaves

needs_onnx = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime'))),
  reason='jax2onnx and onnxruntime are not installed',
)
CONTEXT = 8


def packed_kernel(quantizer, shape):
  w = np.random.default_rng(0).normal(size=shape)
  params = {'a': {'kernel': jnp.asarray(w, jnp.float32)}}
  return mq_jax.pack(params, [('a/kernel', quantizer)])


@pytest.mark.parametrize(
  ('quantizer', 'bits', 'integers'),
  [
    (mq_jax.bwn(), 2, {-1, 1}),
    (methods.absmean(), 2, {-1, 0, 1}),
    (mq_jax.dorefa(2), 4, {-3, -1, 1, 3}),
    (methods.seq(), 4, {-3, -1, 1, 3}),
    (mq_jax.dorefa(4), 8, {*range(-15, 16, 2)}),
    (mq_jax.per(mq_jax.bwn(), axes=(0, -1), group_size=16), 2, {-1, 1}),
  ],
)
@pytest.mark.parametrize('layers', [(), (3,)])
def test_few_bits_are_the_quantized_weights(quantizer, bits, integers, layers):
  if not layers and quantizer.call.startswith('per'):
    quantizer = mq_jax.per(mq_jax.bwn(), axes=-1, group_size=16)
  packed = packed_kernel(quantizer, (*layers, 96, 40))
  w_hat = np.asarray(mq_jax.unpack(packed)['a']['kernel']).reshape(-1, 96, 40)
  (leaf,) = packed_leaves(packed.params).values()
  found = few_bits(leaf)
  assert len(found) == len(w_hat)
  for kernel, wanted in zip(found, w_hat, strict=True):
    whole = kernel.codes.astype(int) - kernel.zero
    assert set(whole.ravel()) == integers
    assert kernel.bits == bits
    assert kernel.codes.max() < 2**bits
    scale = np.repeat(kernel.scale, kernel.block, axis=0)
    # The scale of four bits is rounded, so that values can differ in a bit.
    np.testing.assert_allclose(whole * scale, wanted, rtol=2e-7, atol=0)
    grouped = quantizer.call.startswith('per')
    assert kernel.block == (16 if grouped else 32)


def test_few_bits_of_other_levels_are_none():
  rng = np.random.default_rng(0)
  uneven = rng.choice([-1.0, 0.3, 1.234567], size=(32, 8)).astype(np.float32)
  kernels = {
    'levels without a scale': (uneven, methods.absmean()),
    'levels of 9 bits': (None, mq_jax.dorefa(8)),
    'inputs without blocks': (
      rng.choice([-1, 1], size=(24, 8)).astype(np.float32),
      mq_jax.bwn(),
    ),
  }
  for why, (values, quantizer) in kernels.items():
    if values is None:
      packed = packed_kernel(quantizer, (32, 64))
    else:
      params = {'a': {'kernel': jnp.asarray(values)}}
      rules = [('a/kernel', quantizer)]
      packed = mq_jax.pack(params, rules, quantized=True)
    (leaf,) = packed_leaves(packed.params).values()
    assert few_bits(leaf) == [], why


def test_kernels_of_leaves_out_small_and_other_weights():
  w = np.random.default_rng(0).normal(size=(3, 3, 512, 256))
  leaves = {
    'kernel': w[0, 0],
    'embedding': w[0, 0],
    'small': {'kernel': w[0, 0, :256]},
    'conv': {'kernel': w},
    'stack': {'kernel': w[0]},
  }
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), leaves)
  packed = mq_jax.pack(params, [('.*', mq_jax.bwn())]).params
  assert count_layers(packed) == 7
  found = kernels_of(packed)
  assert {path: len(layers) for path, layers in found.items()} == {
    'kernel': 1,
    'stack/kernel': 3,
  }


def language_model(quantizer, **changes):
  """Returns packed random weights, one of whose groups is a layer."""
  config = gpt.get_config(
    depth=2,
    embed_dim=256,
    heads=2,
    context=CONTEXT,
    activation_quantizer='relu',
    activation_bits=2,
    **changes,
  )
  tokens = jnp.zeros((1, CONTEXT), jnp.int32)
  net = make_network(config, 256)
  params = net.init(jax.random.key(0), tokens)['params']
  # Larger than the start of a training, so that attention is not uniform.
  params = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)
  return mq_jax.pack(
    params,
    [('blocks/.*/kernel', quantizer)],
    metadata=packed_network.make_metadata(config, Tokens((CONTEXT,), 256)),
  )


@needs_onnx
@pytest.mark.parametrize(
  ('quantizer', 'kind'),
  [
    (mq_jax.per(methods.absmean(), axes=0), 'UINT2'),
    (mq_jax.per(mq_jax.dorefa(2), axes=0), 'UINT4'),
    (mq_jax.per(mq_jax.bwn(), axes=(0, -1), group_size=32), 'UINT2'),
  ],
)
def test_onnx_language_model_multiplies_by_few_bits(
  tmp_path, caplog, quantizer, kind
):
  import onnx
  import onnxruntime

  packed = language_model(quantizer)
  path = tmp_path / 'model.onnx'
  content, direct = export.onnx(packed, Tokens((CONTEXT,), 256))
  assert 'onnx_ir.serde' not in [record.name for record in caplog.records]
  path.write_bytes(content)
  model = onnx.load(path)
  onnx.checker.check_model(model)
  assert [node.name for node in model.graph.input] == ['tokens']
  kinds = [
    onnx.TensorProto.DataType.Name(tensor.data_type)
    for tensor in model.graph.initializer
    if tensor.name.endswith('.codes')
  ]
  # The kernels of attention are too small.
  assert kinds == [kind] * 6
  assert direct == 6
  operations = [node.op_type for node in model.graph.node]
  assert operations.count('DequantizeLinear') == len(kinds)

  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 256, (3, CONTEXT), np.uint8)
  expected = packed_network.compiled_logits(packed)(tokens)
  exact = artefact.open_here(path, exact=True)
  assert exact.shape == (CONTEXT,)
  error = np.abs(exact.logits(tokens) - expected)
  assert error.max() < check.TOLERANCE * np.abs(expected).max()
  rounded = artefact.open_here(path).logits(tokens)
  assert 1e-4 < np.abs(rounded - expected).max() < 0.1 * np.abs(expected).max()
  # Any number of tokens: later ones do not change earlier ones.
  np.testing.assert_allclose(
    exact.logits(tokens[:, :3]), expected[:, :3], rtol=1e-4, atol=1e-4
  )

  # The runtime has no product in full precision left.
  options = onnxruntime.SessionOptions()
  options.optimized_model_filepath = str(tmp_path / 'fused.onnx')
  onnxruntime.InferenceSession(str(path), options)
  fused = [
    node.op_type for node in onnx.load(tmp_path / 'fused.onnx').graph.node
  ]
  assert fused.count('MatMulNBits') == len(kinds)
  assert 'DequantizeLinear' not in fused


@needs_onnx
def test_onnx_kernel_with_another_reader_is_unpacked_by_the_model():
  from onnx import TensorProto, helper

  kernel = few_bits(
    *packed_leaves(packed_kernel(mq_jax.bwn(), (128, 128)).params).values()
  )[0]

  def model_of(*nodes):
    names = {name for node in nodes for name in node.input}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
      nodes,
      'graph',
      [value(name, TensorProto.FLOAT, None) for name in sorted(names)],
      [value('y', TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph)

  read = [
    helper.make_node('Add', ['k', 'x'], ['y']),
    helper.make_node('MatMul', ['k', 'x'], ['y']),
    helper.make_node('Gemm', ['x', 'k', 'z'], ['y']),
    helper.make_node('Gemm', ['x', 'k'], ['y'], transB=1),
    helper.make_node('Gemm', ['x', 'k'], ['y'], alpha=2.0),
    helper.make_node('MatMul', ['k', 'k'], ['y']),
  ]
  for node in read:
    model = model_of(node)
    use_products(model)
    before = model.SerializeToString()
    assert insert(model, {'k': kernel}) == ['k'], node
    assert model.SerializeToString() == before
  for gemm in (
    helper.make_node('Gemm', ['x', 'k'], ['y'], alpha=1.0, beta=1.0),
    helper.make_node('Gemm', ['x', 'k', 'z'], ['y'], beta=0.0),
  ):
    model = model_of(gemm)
    use_products(model)
    assert insert(model, {'k': kernel}) == []
    assert list(model.graph.node[1].input) == ['x', 'k']
  for equation, operation in {
    'abc,cd->abd': 'MatMul',
    'ab,bc->ac': 'MatMul',
    'ab,cb->ac': 'Einsum',
    'abc,cd->adb': 'Einsum',
    'abc,bd->acd': 'Einsum',
    'abc,abd->cd': 'Einsum',
  }.items():
    model = model_of(
      helper.make_node('Einsum', ['x', 'k'], ['y'], equation=equation)
    )
    use_products(model)
    assert model.graph.node[0].op_type == operation, equation
    is_product = operation == 'MatMul'
    assert insert(model, {'k': kernel}) == ([] if is_product else ['k'])
    found = [node.op_type for node in model.graph.node]
    assert found == ['DequantizeLinear'] * is_product + [operation]
