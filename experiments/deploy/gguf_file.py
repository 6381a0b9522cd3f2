"""Files of language models for llama.cpp and the programs that build on it.

`mq_jax.models.Gpt` has the layers of Llama, and GGUF calls them `llama`. The
integers of each kernel stay exact, while their scales become float16: ternary
and binary kernels are stored as TQ2_0, 2 bits per weight and a scale per 256
inputs, other ones as Q4_0 or Q8_0, a scale per 32 inputs. Anything else is
float32: embeddings, and kernels whose levels are no multiples of a scale, whose
integers exceed 8 bits, or whose scales differ within 32 inputs. llama.cpp
rounds the inputs of the stored integers to 8 bits.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build.networks import make_activation
from experiments.build.schema import recorded_config
from experiments.common.errors import InvalidError, MissingError
from experiments.deploy import packed_network
from experiments.deploy.artefact import Artefact
from experiments.deploy.integers import has_blocks, integers_of
from mq_jax.models.gpt import EPSILON, ROPE_BASE
from mq_jax.packing.packed_array import is_packed
from mq_jax.selection import named_leaves, nested

ARCHITECTURE = 'llama'
# The names of GGUF by those of `Gpt`; blocks have the prefix `blk.N.`.
_BLOCK = {
  'attention_norm/scale': 'attn_norm',
  'attention/query/kernel': 'attn_q',
  'attention/key/kernel': 'attn_k',
  'attention/value/kernel': 'attn_v',
  'attention/out/kernel': 'attn_output',
  'mlp_norm/scale': 'ffn_norm',
  'mlp/gate/kernel': 'ffn_gate',
  'mlp/up/kernel': 'ffn_up',
  'mlp/down/kernel': 'ffn_down',
}
_WHOLE = {
  'embed/embedding': 'token_embd',
  'norm/scale': 'output_norm',
  'head/kernel': 'output',
}
# Kernels whose pairs of features llama.cpp expects side by side.
_ROTATED = ('attn_q', 'attn_k')
_NETWORK = 'mq_jax.network'
_SPACE = ord(' ')


def check_network(config: ConfigDict) -> None:
  """Checks that llama.cpp computes the network of a run.

  Raises:
    MissingError: If the package gguf is missing.
    InvalidError: If the network is not `gpt`, or rounds the inputs of layers to
      other numbers than llama.cpp does.
  """
  if config.network != 'gpt':
    raise InvalidError(
      f'GGUF holds language models, but config.network={config.network!r}.'
      ' Leave gguf out of --format.'
    )
  quantizer, bits = config.activation_quantizer, config.activation_bits
  is_rounded_alike = (quantizer, bits) == ('absmax', 8)
  if make_activation(config) is not None and not is_rounded_alike:
    raise InvalidError(
      'llama.cpp rounds the inputs of layers to 8 bits, but this run has'
      f' config.activation_quantizer={quantizer!r} and config.activation_bits='
      f'{bits}. Leave gguf out of --format.'
    )
  _gguf()


def _gguf() -> Any:
  try:
    import gguf
  except ImportError as error:
    raise MissingError('GGUF needs gguf: pip install gguf') from error
  return gguf


def write(path: pathlib.Path, packed: mq_jax.PackedParams) -> bool:
  """Writes a file.

  Args:
    path: File.
    packed: Language model with the metadata of `packed_network.make_metadata`.

  Returns:
    True if scales were rounded to float16: a kernel is stored as integers.
  """
  gguf = _gguf()
  writer = gguf.GGUFWriter(path, ARCHITECTURE)
  facts = json.loads(packed.metadata['network'])
  features, heads = facts['embed_dim'], facts['heads']
  leaves = named_leaves(packed.params, is_leaf=is_packed)
  writer.add_string(_NETWORK, packed.metadata['network'])
  writer.add_vocab_size(json.loads(packed.metadata['vocabulary']))
  writer.add_context_length(json.loads(packed.metadata['context']))
  writer.add_embedding_length(features)
  writer.add_block_count(facts['depth'])
  writer.add_feed_forward_length(leaves['blocks/mlp/up/kernel'].shape[-1])
  writer.add_head_count(heads)
  writer.add_head_count_kv(heads)
  writer.add_rope_dimension_count(features // heads)
  writer.add_rope_freq_base(ROPE_BASE)
  writer.add_layer_norm_rms_eps(EPSILON)
  _add_bytes(writer, gguf)
  rounded = False
  for name, leaf in leaves.items():
    for key, values, scales in _layers(name, leaf):
      rounded |= _add(writer, key, *_rotated(key, values, scales, heads))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return rounded


def _add_bytes(writer: Any, gguf: Any) -> None:
  """Adds a vocabulary whose tokens are bytes."""
  kinds = gguf.TokenType
  tokens = [f'<0x{byte:02X}>' for byte in range(256)]
  types = [kinds.BYTE] * 256
  # This vocabulary writes spaces as this character before it looks them up.
  tokens[_SPACE], types[_SPACE] = '\N{LOWER ONE EIGHTH BLOCK}', kinds.NORMAL
  writer.add_tokenizer_model('llama')
  writer.add_token_list(tokens)
  writer.add_token_scores([0.0] * 256)
  writer.add_token_types(types)
  # Texts rarely have the byte 0; llama.cpp stops after it.
  for add in (
    writer.add_bos_token_id,
    writer.add_eos_token_id,
    writer.add_unk_token_id,
  ):
    add(0)
  writer.add_add_bos_token(False)
  writer.add_add_eos_token(False)
  writer.add_add_space_prefix(False)


def _layers(
  name: str, leaf: Any
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
  """Yields the tensors of a leaf of `Gpt`.

  Yields:
    Name in GGUF; integers and their scales, or values and None. The axes of
    kernels are (outputs, inputs), as GGUF has them.
  """
  top, _, rest = name.partition('/')
  keys = (
    [f'blk.{number}.{_BLOCK[rest]}' for number in range(leaf.shape[0])]
    if top == 'blocks'
    else [_WHOLE[name]]
  )
  pairs: list[tuple[np.ndarray, np.ndarray | None]] = (
    [*integers_of(leaf)] if is_packed(leaf) else []
  )
  if not pairs:
    whole = np.asarray(mq_jax.unpack(leaf), np.float32)
    pairs = [(x, None) for x in (whole if top == 'blocks' else whole[None])]
  turn = name.endswith('kernel')
  for key, (values, scales) in zip(keys, pairs, strict=True):
    yield (
      key,
      values.T if turn else values,
      scales.T if turn and scales is not None else scales,
    )


def _rotated(
  key: str, values: np.ndarray, scales: np.ndarray | None, heads: int
) -> tuple[np.ndarray, np.ndarray | None]:
  """Moves features i and i + half of each head side by side."""
  if key.rpartition('.')[2] not in _ROTATED:
    return values, scales

  def moved(x: np.ndarray) -> np.ndarray:
    parts = x.reshape(heads, 2, -1, x.shape[-1])
    return parts.swapaxes(1, 2).reshape(x.shape)

  return moved(values), None if scales is None else moved(scales)


def _add(
  writer: Any, key: str, values: np.ndarray, scales: np.ndarray | None
) -> bool:
  """Adds a tensor; returns True if it is stored as integers."""
  name = f'{key}.weight'
  if scales is None:
    writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
    return False
  kinds = _gguf().GGMLQuantizationType
  smallest, largest = values.min(), values.max()
  if smallest >= -1 and largest <= 1 and has_blocks(scales.T, 256):
    content, kind = _tq2(values, scales), kinds.TQ2_0
  elif smallest >= -8 and largest <= 7 and has_blocks(scales.T, 32):
    content, kind = _q4(values, scales), kinds.Q4_0
  elif smallest >= -128 and largest <= 127 and has_blocks(scales.T, 32):
    content, kind = _q8(values, scales), kinds.Q8_0
  else:
    writer.add_tensor(name, np.ascontiguousarray(values * scales))
    return False
  writer.add_tensor(name, content, raw_dtype=kind)
  return True


def _half(scales: np.ndarray, block: int) -> np.ndarray:
  """Returns a scale per block as the two bytes of its float16."""
  return scales[:, ::block].astype('<f2')[..., None].view(np.uint8)


def _tq2(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Returns blocks of 256 weights: 64 bytes of four codes each, and a scale."""
  codes = (values + 1).astype(np.uint8).reshape(len(values), -1, 2, 4, 32)
  shifts = np.asarray([0, 2, 4, 6], np.uint8)[None, None, None, :, None]
  packed = np.bitwise_or.reduce(codes << shifts, axis=3)
  packed = packed.reshape(len(values), -1, 64)
  blocks = np.concatenate([packed, _half(scales, 256)], axis=-1)
  return blocks.reshape(len(values), -1)


def _q4(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Returns blocks of 32 weights: a scale, and 16 bytes of two codes each."""
  codes = (values + 8).astype(np.uint8).reshape(len(values), -1, 2, 16)
  packed = codes[:, :, 0] | codes[:, :, 1] << 4
  blocks = np.concatenate([_half(scales, 32), packed], axis=-1)
  return blocks.reshape(len(values), -1)


def _q8(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """Returns blocks of 32 weights: a scale, and 32 bytes."""
  codes = values.astype(np.int8).view(np.uint8).reshape(len(values), -1, 32)
  blocks = np.concatenate([_half(scales, 32), codes], axis=-1)
  return blocks.reshape(len(values), -1)


def load(path: pathlib.Path) -> Artefact:
  """Opens the network in a file that `write` wrote, and runs it in jax.

  Raises:
    MissingError: If the package gguf is missing.
    InvalidError: If the file is damaged or from another program.
  """
  gguf = _gguf()
  try:
    reader = gguf.GGUFReader(path)
    network = reader.fields[_NETWORK].contents()
    context = reader.fields[f'{ARCHITECTURE}.context_length'].contents()
    vocabulary = len(reader.fields['tokenizer.ggml.tokens'].data)
    config = recorded_config(json.loads(network), 'The file of the network')
    tensors = {
      tensor.name.removesuffix('.weight'): gguf.quants.dequantize(
        tensor.data, tensor.tensor_type
      )
      for tensor in reader.tensors
    }
    check_network(config)
    packed_network.check_tokens(int(context), vocabulary)
    params = _params(tensors, config.depth, config.heads)
    sizes = {'context': int(context), 'vocabulary': vocabulary}
    metadata = {name: json.dumps(size) for name, size in sizes.items()}
    logits = packed_network.compiled_logits(
      mq_jax.PackedParams(params, {}, metadata | {'network': network})
    )
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise InvalidError(
      f'{path} is damaged, or not a .gguf file of experiments.deploy ({error}).'
      ' Copy the file again.'
    ) from error
  return Artefact(logits, (int(context),), ())


def _params(
  tensors: dict[str, np.ndarray], depth: int, heads: int
) -> dict[str, Any]:
  """Returns the parameters of `Gpt` with the values of tensors."""

  def value(key: str, name: str) -> np.ndarray:
    x = tensors[key]
    if key.rpartition('.')[2] in _ROTATED:
      x = x.reshape(heads, -1, 2, x.shape[-1]).swapaxes(1, 2).reshape(x.shape)
    return x.T if name.endswith('kernel') else x

  stacks = {
    f'blocks/{name}': np.stack(
      [value(f'blk.{number}.{key}', name) for number in range(depth)]
    )
    for name, key in _BLOCK.items()
  }
  # A tied head is the embedding.
  whole = {
    name: value(key, name) for name, key in _WHOLE.items() if key in tensors
  }
  return nested(stacks | whole)
