"""The card of a deployed network: its origin, size and accuracy.

`experiments.records.cards` enters a card into the ledger.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

import mq_jax
from experiments.common.console import counted, final_table, print_line
from experiments.common.markdown import table_lines
from experiments.data.raw_examples import Inputs, Tokens
from experiments.deploy import check, packed_network
from experiments.records import ledger, run_log

# Endings of files, that which needs the fewest packages first.
_PACKAGES = ('onnx', 'stablehlo', 'safetensors', 'gguf')
_LARGEST_LISTING = 100  # Names of classes on the page.
Columns = dict[str, Callable[[dict[str, Any], dict[str, Any]], str]]
# `(card, artefact) -> text` of each column in a table of files.
_COLUMNS: Columns = {
  'file': lambda card, file: ', rounded '.join(
    [file['file'], *filter(None, [file.get('rounded')])]
  ),
  'bytes': lambda card, file: f'{file["bytes"]:,}',
  'times smaller': lambda card, file: (
    f'{card["trained_bytes"] / file["bytes"]:.1f}'
  ),
  'test accuracy': lambda card, file: f'{file["accuracy"]:.2f} %',
  'equal predictions': lambda card, file: (
    f'{file["equal_predictions"]:,} of {check.count(file):,}'
  ),
  'largest error': lambda card, file: f'{file["largest_error"]:.1e}',
}
_BITS: Columns = {
  'bits per byte': lambda card, file: (
    f'{file["bits"]:.3f}' if 'bits' in file else ''
  ),
}


def file_columns(cards: Sequence[dict[str, Any]]) -> Columns:
  """Returns the columns of a table of the files of some cards."""
  is_text = any('bits' in file for card in cards for file in card['artefacts'])
  return _COLUMNS | (_BITS if is_text else {})


def describe(
  header: dict[str, Any],
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  inputs: Inputs | Tokens,
  accuracy: float,
) -> dict[str, Any]:
  """Returns the card, without its artefacts.

  Args:
    header: Header of the run's log.
    path: File of the trained network, in the folder of the run.
    packed: Deployed network.
    inputs: Form of the examples that the network takes.
    accuracy: Test accuracy of the trained network, percent.

  Returns:
    JSON: 'name' (folder of the run), 'count_bits' (whether convolutions of ±1
    count bits), 'accuracy', 'trained_bytes' of the trained network's file,
    'layers' and 'state_bytes' (fields of `mq_jax.Summary`), 'run' and 'made'
    (headers of `run_log.describe_run`), 'artefacts' (empty: `check.compare`
    makes them).
    With an ONNX model, `make.deploy` adds 'packed_layers' and 'direct_layers':
    numbers of layers with packed weights, and of those that it does not unpack.
    For images also 'classes', 'images' (shape of an image), 'resize' (as in
    `Inputs`) and 'pixels' ('mean' and 'std' of the channels, which the files
    subtract and divide by); for tokens 'context' and 'vocabulary'.
  """
  layers = mq_jax.summary(
    packed,
    apply_fn=lambda params, images: packed_network.make_logits(
      packed._replace(params=params)
    )(images),
    inputs=[jax.ShapeDtypeStruct((1, *inputs.shape), np.uint8)],
  )
  return {
    'name': path.parent.resolve().name,
    **_form(inputs),
    'count_bits': json.loads(packed.metadata['count_bits']),
    'accuracy': accuracy,
    'trained_bytes': path.stat().st_size,
    'layers': [
      layer._asdict() | {'shape': list(layer.shape)} for layer in layers.layers
    ],
    'state_bytes': layers.state_bytes,
    'artefacts': [],
    'run': ledger.without_folders(header),
    'made': ledger.without_folders(run_log.describe_run(header['config'])),
  }


def _form(inputs: Inputs | Tokens) -> dict[str, Any]:
  """Returns the facts about the examples that the network takes."""
  if isinstance(inputs, Tokens):
    return {'context': inputs.shape[0], 'vocabulary': inputs.vocabulary}
  return {
    'classes': list(inputs.classes),
    'images': list(inputs.shape),
    'resize': inputs.resize,
    'pixels': {'mean': list(inputs.mean), 'std': list(inputs.std)},
  }


def show(
  card: dict[str, Any], console: rich.console.Console | None = None
) -> None:
  """Prints a table of the files, and how an ONNX model stores the layers.

  Args:
    card: Card with its artefacts.
    console: Console to print on; standard output by default.
  """
  table = rich.table.Table(
    title=f'{card["name"]}: {card["accuracy"]:.2f} % of'
    f' {_test(card)} as trained'
  )
  columns = file_columns([card])
  file, *numbers = columns
  table.add_column(file, no_wrap=True)
  for name in numbers:
    table.add_column(name.replace(' ', '\n'), justify='right', no_wrap=True)
  # With the number of examples, a terminal of 80 columns would wrap each row.
  columns |= {
    'equal predictions': lambda card, file: f'{file["equal_predictions"]:,}'
  }
  rows = _file_rows(card, columns)
  for row in rows:
    table.add_row(*row)
  console = console or rich.console.Console()
  unlimited = console.options.update_width(10**4)
  if console.measure(table, options=unlimited).maximum <= console.width:
    console.print(table)
  else:
    print_line(console, str(table.title))
    for row in rows:
      final_table(dict(zip(columns, row, strict=True)), console)
  if products := _products(card):
    print_line(console, products)


def _file_rows(card: dict[str, Any], columns: Columns) -> list[list[str]]:
  return [
    [text(card, file) for text in columns.values()]
    for file in card['artefacts']
  ]


def markdown(card: dict[str, Any]) -> str:
  """Returns the card as a page of Markdown."""
  run, made = card['run'], card['made']
  config = run['config']
  columns = file_columns([card])
  # The file that needs the fewest packages.
  files = [file['file'] for file in card['artefacts']]
  last = min(files, key=lambda file: _PACKAGES.index(file.rpartition('.')[2]))
  layers = [mq_jax.LayerSummary(**layer) for layer in card['layers']]
  # Older cards lack it. They are of networks without a state.
  state_bytes = card.get('state_bytes', 0)
  commit = run['commit'] or 'no checkout'
  counting = ' Convolutions of ±1 count bits.' if card['count_bits'] else ''
  paragraphs = [
    f'# {card["name"]}',
    f'A {config["network"]} for {config["dataset"]}. The trained network'
    f' predicts {card["accuracy"]:.2f} % of {_test(card)} correctly; its file'
    f' has {card["trained_bytes"]:,} bytes.{counting}',
    '\n'.join(table_lines(tuple(columns), _file_rows(card, columns))),
    f'Each file was opened in a fresh process. {_errors(card)}',
    *filter(None, [_products(card)]),
    *_use(card, last),
    '## Layers',
    f'```\n{mq_jax.Summary(tuple(layers), state_bytes)}\n```',
    '## Origin',
    f'Trained {run["date"]} at commit {commit}: quantizer'
    f' {config["quantizer"]}, estimator {config["estimator"]}, optimizer'
    f' {config["optimizer"]}, {config["epochs"]} epochs, seed'
    f' {config["seed"]}, device {run["device"]["kind"]}. Deployed'
    f' {made["date"]} with mq_jax {made["versions"]["mq_jax"]}, jax'
    f' {made["versions"]["jax"]}. The whole configuration is in card.json.',
  ]
  return '\n\n'.join(paragraphs) + '\n'


def _test(card: dict[str, Any]) -> str:
  """Returns the number of test images or bytes."""
  what = 'bytes of the test' if 'context' in card else 'test images'
  return f'{check.count(card["artefacts"][0]):,} {what}'


def _errors(card: dict[str, Any]) -> str:
  """Returns a sentence about the column of errors, and one about rounding."""
  what = 'byte' if 'context' in card else 'image'
  text = (
    'Errors of logits are relative to the largest logit of the'
    f' {what} in the trained network.'
  )
  rounded = {file.get('rounded') for file in card['artefacts']}
  if check.SCALES in rounded:
    text += ' GGUF stores scales as float16; llama.cpp also rounds inputs.'
  if check.INPUTS in rounded:
    text += (
      ' onnxruntime rounds the inputs of its direct products to 8 bits; the'
      ' row above was computed with float32 inputs.'
    )
  return text


def _products(card: dict[str, Any]) -> str:
  """Returns a sentence about the layers in the ONNX model, '' without one."""
  # Cards of earlier versions have no such items.
  if 'direct_layers' not in card:
    return ''
  direct, packed = card['direct_layers'], card['packed_layers']
  if not direct:
    return f'onnxruntime unpacks all {packed} packed layers to float32.'
  rest = '; it unpacks the others to float32' if direct < packed else ''
  return (
    f'onnxruntime can multiply by the few bits of {direct} of'
    f' {counted(packed, "packed layer")}{rest}.'
  )


def _use(card: dict[str, Any], file: str) -> list[str]:
  """Returns paragraphs about input and output, and the command that runs it."""
  if 'context' in card:
    context, vocabulary = card['context'], card['vocabulary']
    return [
      f'Input: `tokens`, uint8, (N, {context}), the bytes of a text. Output:'
      f' `logits`, float32, (N, {context}, {vocabulary}), of the byte after'
      ' each.',
      'To write a text, in a clone of mq_jax:',
      f"```sh\npython -m experiments.sample {file} --prompt='The '\n```",
    ]
  return [
    f'{_input(card)} Output: `logits`, float32, (N, {len(card["classes"])}),'
    f' of the classes {_names(card["classes"])}.',
    'To classify an image, in a clone of mq_jax:',
    f'```sh\npython -m experiments.predict {file} IMAGE.png\n```',
  ]


def _input(card: dict[str, Any]) -> str:
  """Returns a sentence about the images that the files take."""
  height, width, channels = card['images']
  form = f'Input: `images`, uint8, (N, {height}, {width}, {channels}), RGB'
  if card['resize'] is None:
    return f'{form} without preprocessing.'
  return (
    f'{form}: the centre of an upright photograph whose short side is scaled to'
    f' {card["resize"]} pixels (bilinear, with antialiasing). The files'
    ' normalise the pixels.'
  )


def _names(classes: Sequence[str]) -> str:
  """Returns the names of the classes, or the first of very many."""
  more = len(classes) - _LARGEST_LISTING
  if more <= 0:
    return ', '.join(classes)
  listed = ', '.join(classes[:_LARGEST_LISTING])
  return f'{listed} and {more:,} more, which are in card.json'
