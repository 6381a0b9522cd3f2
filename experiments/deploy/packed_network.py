"""Runs networks with packed weights.

The metadata of the packed parameters names the network and its preprocessing,
so that a file of packed parameters is enough to run the network.
"""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import mq_jax
from experiments.build.networks import DTYPES, make_network, network_keys
from experiments.build.schema import recorded_config
from experiments.common.errors import InvalidError, UserError
from experiments.data import batches
from experiments.data.raw_examples import Inputs, Tokens
from experiments.deploy.artefact import Artefact, Logits, checked_resize
from experiments.records import model_file, workdir

Array = jax.Array


def make_metadata(
  config: ConfigDict, inputs: Inputs | Tokens, count_bits: bool = False
) -> dict[str, str]:
  """Returns the metadata of packed parameters, from which the network is built.

  Args:
    config: Configuration of the run.
    inputs: Inputs of the data set of the run.
    count_bits: Compute convolutions of ±1 with ±1 by counting bits.
  """
  facts: dict[str, Any] = {
    'network': {key: config[key] for key in network_keys(config)},
    'count_bits': count_bits,
  }
  if isinstance(inputs, Tokens):
    facts |= {'context': inputs.shape[0], 'vocabulary': inputs.vocabulary}
  else:
    facts |= {
      'pixels': {'mean': inputs.mean, 'std': inputs.std},
      'images': inputs.shape,
      'classes': inputs.classes,
    }
    if inputs.resize is not None:
      facts['resize'] = inputs.resize
  return {name: json.dumps(fact) for name, fact in facts.items()} | {
    'quantizer': config.quantizer
  }


def make_logits(packed: mq_jax.PackedParams) -> Callable[[Array], Array]:
  """Returns the network as a pure function, which can be jitted or exported.

  Args:
    packed: Parameters with the metadata of `make_metadata`.

  Returns:
    `(examples) -> logits` as in `artefact.Artefact`, of jax arrays. The
    function unpacks the weights.
  """
  apply = make_apply(packed)
  return lambda examples: apply(mq_jax.unpack(packed), examples)


def make_apply(packed: mq_jax.PackedParams) -> Callable[[Any, Array], Array]:
  """Returns `make_logits` as a function of unpacked parameters and examples."""
  metadata = packed.metadata
  config = recorded_config(
    json.loads(metadata['network']), 'The file of the network'
  )
  if 'context' in metadata:
    model = make_network(config, json.loads(metadata['vocabulary']))
    return lambda params, tokens: model.apply(
      {'params': params}, tokens.astype(jnp.int32), train=False
    ).astype(jnp.float32)
  net = make_network(config, len(json.loads(metadata['classes'])))
  if json.loads(metadata['count_bits']):
    net = net.clone(count_bits=True)
  pixels = json.loads(metadata['pixels'])

  def logits(params: Any, images: Array) -> Array:
    images = batches.normalised(
      images, pixels['mean'], pixels['std'], DTYPES[config.dtype]
    )
    variables = {'params': params, 'batch_stats': packed.model_state}
    return net.apply(variables, images, train=False)

  return logits


def compiled_logits(packed: mq_jax.PackedParams) -> Logits:
  """Returns the function of `make_logits`, compiled, for NumPy arrays."""
  logits = jax.jit(make_logits(packed))
  return lambda examples: np.asarray(logits(examples))


def check_tokens(context: Any, vocabulary: Any) -> None:
  """Checks the sizes of a language model on bytes.

  Raises:
    ValueError: If one of them is no such size.
  """
  for name, size, limit in (
    ('context', context, math.inf),
    ('vocabulary', vocabulary, 256),
  ):
    if type(size) is not int or not 1 <= size <= limit:
      raise ValueError(f'{name}={size!r} must be an integer from 1 to {limit}')


def _is_model_file(path: pathlib.Path) -> bool:
  """Returns True for a file of `experiments.records.model_file`."""
  try:
    model_file.load_model(path)
  except UserError:
    return False
  return True


def load(path: pathlib.Path) -> Artefact:
  """Loads the network in a file of packed parameters.

  Raises:
    InvalidError: If the file is damaged or does not describe its network.
  """
  try:
    packed = mq_jax.load_packed(path)
  except ValueError as error:
    if _is_model_file(path):
      is_in_run = (path.parent / workdir.LOG).is_file()
      folder = path.parent if is_in_run else 'RUN'
      raise InvalidError(
        f'{path} has weights that are not packed. To make files of a run that'
        f' can be opened: python -m experiments.deploy --workdir={folder}'
        ' --out=FOLDER'
      ) from error
    raise InvalidError(str(error)) from error
  found, is_text = packed.metadata.keys(), 'context' in packed.metadata
  own = (
    {'context', 'vocabulary'} if is_text else {'pixels', 'images', 'classes'}
  )
  if not {'network', 'count_bits', *own} <= found:
    raise InvalidError(
      f'{path} does not describe its network. Use a file that'
      ' python -m experiments.deploy wrote.'
    )
  try:
    facts = {
      name: json.loads(text)
      for name, text in packed.metadata.items()
      if name in own | {'resize'}
    }
    if is_text:
      check_tokens(facts['context'], facts['vocabulary'])
  except (ValueError, RecursionError) as error:
    raise InvalidError(
      f'{path} does not describe its network: {error}. Use a file that'
      ' python -m experiments.deploy wrote.'
    ) from error
  logits = compiled_logits(packed)
  if is_text:
    return Artefact(logits, (facts['context'],), ())
  height, width, _ = facts['images']
  resize = checked_resize(facts.get('resize'), (height, width))
  return Artefact(logits, (height, width), tuple(facts['classes']), resize)
