"""Opens StableHLO programs, and refuses those that contain anything unusual.

A program is a file of `jax.export`. It is checked before XLA compiles it: it
may contain only the operations that the programs of `experiments.deploy`
contain, and must map images or tokens to logits. Nothing that calls code
outside of the program is among these operations.

The parsers of jaxlib are not made for files from untrusted sources, and a
crafted file can crash them. Therefore `worker` calls this module in a separate
process.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.common.errors import InvalidError, MissingError
from experiments.deploy.artefact import Artefact, input_shape

# The operations that the programs of `experiments.deploy` contain.
# `stablehlo.custom_call` may only call `CUSTOM_CALLS`.
_OPERATIONS = """
builtin.module func.call func.func func.return stablehlo.abs stablehlo.add
stablehlo.and stablehlo.broadcast_in_dim stablehlo.case stablehlo.clamp
stablehlo.compare stablehlo.concatenate stablehlo.constant stablehlo.convert
stablehlo.convolution stablehlo.cosine stablehlo.custom_call stablehlo.divide
stablehlo.dot_general stablehlo.dynamic_broadcast_in_dim
stablehlo.dynamic_gather stablehlo.dynamic_reshape stablehlo.dynamic_slice
stablehlo.exponential stablehlo.floor stablehlo.gather
stablehlo.get_dimension_size stablehlo.iota stablehlo.maximum stablehlo.minimum
stablehlo.multiply stablehlo.negate stablehlo.or stablehlo.pad stablehlo.popcnt
stablehlo.power stablehlo.real_dynamic_slice stablehlo.reduce
stablehlo.reduce_window stablehlo.reshape stablehlo.return stablehlo.rsqrt
stablehlo.select stablehlo.shift_left stablehlo.shift_right_logical
stablehlo.sine stablehlo.slice stablehlo.sqrt stablehlo.subtract
stablehlo.transpose stablehlo.while stablehlo.xor
"""
OPERATIONS = frozenset(_OPERATIONS.split())
# jax checks these assertions about the number of images when it compiles.
CUSTOM_CALLS = frozenset({'shape_assertion'})
# The attributes, beside those that belong to an operation.
ATTRIBUTES = frozenset(
  {
    'jax.global_constant',
    'jax.result_info',
    'jax.uses_shape_polymorphism',
    'mhlo.num_partitions',
    'mhlo.num_replicas',
  }
)


def load(path: pathlib.Path) -> Artefact:
  """Checks a program, and opens it in this process.

  Raises:
    MissingError: If a package is missing.
    InvalidError: If the file is damaged, contains an operation that no program
      of `experiments.deploy` contains, or does not map inputs to logits.
  """
  try:
    # jax.export imports flatbuffers, which jax does not install.
    import flatbuffers  # noqa: F401
    import jax
    from jax import export
  except ImportError as error:
    raise MissingError(
      f'{path} needs jax and flatbuffers: pip install jax flatbuffers'
    ) from error
  try:
    exported = export.deserialize(bytearray(path.read_bytes()))
    module = parse(exported.mlir_module_serialized)
    uses, main = list(uses_of(module)), _main_types(module)
  except Exception as error:  # The errors of flatbuffers have no common base.
    cause = str(error).partition('\n')[0] or type(error).__name__
    raise InvalidError(
      f'{path} is damaged, is not a program of jax.export, or is one of a newer'
      f' jax than {jax.__version__} ({cause}). Copy the file again, or update'
      ' jax.'
    ) from error
  for use in uses:
    if not is_allowed(*use):
      raise InvalidError(
        f'{path} contains the {use[0]} {use[1]!r:.99}, which no program of'
        ' experiments.deploy contains. Do not use this file.'
      )
  shape = _checked_shape(path, exported, main)
  compiled = jax.jit(exported.call)

  def logits(images: np.ndarray) -> np.ndarray:
    try:
      return np.asarray(compiled(images))
    # The program is for another platform, or XLA refuses it.
    except Exception as error:
      cause = str(error).partition('\n')[0]
      raise InvalidError(f'{path} does not run here: {cause}') from error

  return Artefact(logits, shape, ())


def is_allowed(kind: str, name: str) -> bool:
  """Returns True if a program may contain this, an item of `uses_of`."""
  allowed = {
    'operation': OPERATIONS,
    'custom call': CUSTOM_CALLS,
    'attribute': ATTRIBUTES,
  }
  return name in allowed[kind]


def uses_of(module: Any) -> Iterator[tuple[str, str]]:
  """Lists what an MLIR module contains.

  Yields:
    Kind and name, with repetitions: each 'operation', the target of each
    'custom call', and each 'attribute' that does not belong to an operation.
  """
  for operation in _operations(module.operation):
    yield 'operation', operation.name
    attributes = _as_dict(operation.attributes)
    if operation.name == 'stablehlo.custom_call':
      yield 'custom call', attributes['call_target_name'].value
    for name, value in attributes.items():
      if '.' in name:
        yield 'attribute', name
      if name in ('arg_attrs', 'res_attrs'):
        for of_value in value:
          yield from (('attribute', key) for key in _as_dict(of_value))


def parse(serialized: bytes) -> Any:
  """Returns the MLIR module of `mlir_module_serialized` of a `jax.export`.

  Raises:
    ValueError: If it is damaged or has operations that are not StableHLO.
  """
  from jax.extend.mlir import ir
  from jax.extend.mlir.dialects import stablehlo

  context = ir.Context()
  stablehlo.register_dialect(context)
  return stablehlo.deserialize_portable_artifact(context, serialized)


def _operations(operation: Any) -> Iterator[Any]:
  """Yields an operation and all operations in its regions."""
  waiting = [operation]
  while waiting:
    operation = waiting.pop()
    yield operation
    for region in operation.regions:
      for block in region.blocks:
        waiting += [inner.operation for inner in block.operations]


def _as_dict(attributes: Any) -> dict[str, Any]:
  """Returns MLIR attributes by name."""
  names = [a if isinstance(a, str) else a.name for a in attributes]
  return {name: attributes[name] for name in names}


def _main_types(module: Any) -> tuple[list[str], list[str]]:
  """Returns the types of arguments and results of a module's main function."""
  for function in module.body.operations:
    attributes = _as_dict(function.operation.attributes)
    if attributes['sym_name'].value == 'main':
      kind = attributes['function_type'].value
      return [str(x) for x in kind.inputs], [str(x) for x in kind.results]
  raise ValueError('it has no main function')


def _checked_shape(
  path: pathlib.Path, exported: Any, main: tuple[Sequence[str], Sequence[str]]
) -> tuple[int, ...]:
  """Returns `Artefact.shape` of a program.

  Raises:
    InvalidError: If the program does not map images or tokens to logits.
  """
  inputs = [
    (example.shape, str(example.dtype)) for example in exported.in_avals
  ]
  shape = input_shape(path, inputs)
  outputs = [(x.shape, str(x.dtype)) for x in exported.out_avals]
  batch = inputs[0][0][0]
  classes = outputs[0][0][-1] if outputs and outputs[0][0] else 0
  # A logit per class of an image, or per byte that can follow a token.
  places = shape if len(shape) == 1 else ()
  example, result = (
    f'tensor<?x{"x".join(map(str, sizes))}x{kind}>'
    for sizes, kind in (
      (inputs[0][0][1:], 'ui8'),
      ((*places, classes), 'f32'),
    )
  )
  index = 'tensor<i32>'
  found = (
    outputs,
    # A program for several platforms also takes the number of its platform.
    [kind for kind in main[0] if kind != index],
    main[1],
    (exported.nr_devices, len(main[0]) - (len(exported.platforms) > 1)),
    (exported.ordered_effects, exported.unordered_effects),
    exported.disabled_safety_checks,
  )
  wanted = (
    [((batch, *places, classes), 'float32')],
    [example],
    [result],
    (1, 1),
    ((), ()),
    (),
  )
  if not isinstance(classes, int) or found != wanted:
    raise InvalidError(
      f'{path} is a program {main[0]} -> {main[1]} that returns {outputs}, not'
      ' float32 logits of shape (N, classes) or (N, context, bytes). Use a'
      ' file that python -m experiments.deploy wrote.'
    )
  return shape
