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
from experiments.common.console import final_table, print_line
from experiments.common.markdown import table_lines
from experiments.data.raw_images import Inputs
from experiments.deploy import packed_network
from experiments.records import ledger, run_log

_LARGEST_LISTING = 100  # Names of classes on the page.
Columns = dict[str, Callable[[dict[str, Any], dict[str, Any]], str]]
# `(card, artefact) -> text` of each column in a table of files.
FILE_COLUMNS: Columns = {
  'file': lambda card, file: file['file'],
  'bytes': lambda card, file: f'{file["bytes"]:,}',
  'times smaller': lambda card, file: (
    f'{card["trained_bytes"] / file["bytes"]:.1f}'
  ),
  'test accuracy': lambda card, file: f'{file["accuracy"]:.2f} %',
  'equal predictions': lambda card, file: (
    f'{file["equal_predictions"]:,} of {file["images"]:,}'
  ),
  'largest error': lambda card, file: f'{file["largest_error"]:.1e}',
}


def describe(
  header: dict[str, Any],
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  inputs: Inputs,
  accuracy: float,
) -> dict[str, Any]:
  """Returns the card, without its artefacts.

  Args:
    header: Header of the run's log.
    path: File of the trained network, in the folder of the run.
    packed: Deployed network.
    inputs: Images that the network takes, and its classes.
    accuracy: Test accuracy of the trained network, percent.

  Returns:
    JSON: 'name' (folder of the run), 'classes', 'images' (shape of an image),
    'resize' (as in `Inputs`), 'pixels' ('mean' and 'std' of the channels, which
    the files subtract and divide by), 'count_bits' (whether convolutions of ±1
    count bits), 'accuracy', 'trained_bytes' of the trained network's file,
    'layers' (fields of `mq_jax.Summary`), 'run' and 'made' (headers of
    `run_log.describe_run`), 'artefacts' (empty: `check.compare` makes them).
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
    'classes': list(inputs.classes),
    'images': list(inputs.shape),
    'resize': inputs.resize,
    'pixels': {'mean': list(inputs.mean), 'std': list(inputs.std)},
    'count_bits': json.loads(packed.metadata['count_bits']),
    'accuracy': accuracy,
    'trained_bytes': path.stat().st_size,
    'layers': [
      layer._asdict() | {'shape': list(layer.shape)} for layer in layers.layers
    ],
    'artefacts': [],
    'run': ledger.without_folders(header),
    'made': ledger.without_folders(run_log.describe_run(header['config'])),
  }


def show(
  card: dict[str, Any], console: rich.console.Console | None = None
) -> None:
  """Prints a table of the files: size and agreement with the trained network.

  Args:
    card: Card with its artefacts.
    console: Console to print on; standard output by default.
  """
  table = rich.table.Table(
    title=f'{card["name"]}: {card["accuracy"]:.2f} % of'
    f' {card["artefacts"][0]["images"]:,} test images as trained'
  )
  file, *numbers = FILE_COLUMNS
  table.add_column(file, no_wrap=True)
  for name in numbers:
    table.add_column(name.replace(' ', '\n'), justify='right', no_wrap=True)
  # With the number of images, a terminal of 80 columns would wrap each row.
  columns = FILE_COLUMNS | {
    'equal predictions': lambda card, file: f'{file["equal_predictions"]:,}'
  }
  rows = _file_rows(card, columns)
  for row in rows:
    table.add_row(*row)
  console = console or rich.console.Console()
  unlimited = console.options.update_width(10**4)
  if console.measure(table, options=unlimited).maximum <= console.width:
    console.print(table)
    return
  print_line(console, str(table.title))
  for row in rows:
    final_table(dict(zip(columns, row, strict=True)), console)


def _file_rows(card: dict[str, Any], columns: Columns) -> list[list[str]]:
  return [
    [text(card, file) for text in columns.values()]
    for file in card['artefacts']
  ]


def markdown(card: dict[str, Any]) -> str:
  """Returns the card as a page of Markdown."""
  run, made = card['run'], card['made']
  config = run['config']
  first = card['artefacts'][0]
  # The last file needs the fewest packages to run.
  last = card['artefacts'][-1]['file']
  layers = [mq_jax.LayerSummary(**layer) for layer in card['layers']]
  commit = run['commit'] or 'no checkout'
  counting = ' Convolutions of ±1 count bits.' if card['count_bits'] else ''
  paragraphs = [
    f'# {card["name"]}',
    f'A {config["network"]} for {config["dataset"]}. The trained network'
    f' classifies {card["accuracy"]:.2f} % of {first["images"]:,} test images'
    f' correctly; its file has {card["trained_bytes"]:,} bytes.{counting}',
    '\n'.join(table_lines(tuple(FILE_COLUMNS), _file_rows(card, FILE_COLUMNS))),
    'Each file was opened in a fresh process. Errors of logits are relative to'
    ' the largest logit of the image in the trained network.',
    f'{_input(card)} Output: `logits`, float32, (N, {len(card["classes"])}),'
    f' of the classes {_names(card["classes"])}.',
    'To classify an image, in a clone of mq_jax:',
    f'```sh\npython -m experiments.predict {last} IMAGE.png\n```',
    '## Layers',
    f'```\n{mq_jax.Summary(tuple(layers), 0)}\n```',
    '## Origin',
    f'Trained {run["date"]} at commit {commit}: quantizer'
    f' {config["quantizer"]}, estimator {config["estimator"]}, optimizer'
    f' {config["optimizer"]}, {config["epochs"]} epochs, seed'
    f' {config["seed"]}, device {run["device"]["kind"]}. Deployed'
    f' {made["date"]} with mq_jax {made["versions"]["mq_jax"]}, jax'
    f' {made["versions"]["jax"]}. The whole configuration is in card.json.',
  ]
  return '\n\n'.join(paragraphs) + '\n'


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
