"""The card of a deployed network: its origin, size and accuracy.

`experiments.records.cards` enters a card into the ledger.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

import mq_jax
from experiments.common.markdown import table_lines
from experiments.data.on_device import ImageSet
from experiments.deploy import check, packed_network
from experiments.records import ledger, run_log


def describe(
  name: str,
  header: dict[str, Any],
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  dataset: ImageSet,
  logits: np.ndarray,
) -> dict[str, Any]:
  """Returns the card, without its artefacts.

  Args:
    name: Name of the run.
    header: Header of the run's log.
    path: File of the trained network.
    packed: Deployed network.
    dataset: Dataset whose test set the files are tested on.
    logits: Logits of the trained network on the test images.

  Returns:
    JSON: 'name', 'classes', 'images' (shape of an image), 'count_bits' (whether
    convolutions of ±1 count bits), 'accuracy' of the trained network (percent),
    'trained_bytes' of its file, 'layers' (fields of `mq_jax.Summary`), 'run'
    and 'made' (headers of `run_log.describe_run`), 'artefacts' (empty:
    `check.compare` makes them).
  """
  shape = dataset.test_images.shape[1:]
  layers = mq_jax.summary(
    packed,
    apply_fn=lambda params, images: packed_network.make_logits(
      packed._replace(params=params)
    )(images),
    inputs=[jax.ShapeDtypeStruct((1, *shape), np.uint8)],
  )
  return {
    'name': name,
    'classes': list(dataset.class_names),
    'images': list(shape),
    'count_bits': json.loads(packed.metadata['count_bits']),
    'accuracy': check.accuracy(logits, dataset.test_labels),
    'trained_bytes': path.stat().st_size,
    'layers': [
      layer._asdict() | {'shape': list(layer.shape)} for layer in layers.layers
    ],
    'artefacts': [],
    'run': ledger.without_folders(header),
    'made': ledger.without_folders(run_log.describe_run(header['config'])),
  }


def show(
  described: dict[str, Any], console: rich.console.Console | None = None
) -> None:
  """Prints a table of the files: size and agreement with the trained network.

  Args:
    described: Card.
    console: Console to print on; standard output by default.
  """
  table = rich.table.Table(
    title=f'{described["name"]}: {described["accuracy"]:.2f}% as trained',
  )
  table.add_column('file', no_wrap=True)
  equal = f'of {described["artefacts"][0]["images"]:,} equal'
  for name in ('bytes', 'smaller', 'accuracy', equal, 'error'):
    table.add_column(name, justify='right')
  for file in described['artefacts']:
    table.add_row(
      file['file'],
      f'{file["bytes"]:,}',
      f'{described["trained_bytes"] / file["bytes"]:.1f}x',
      f'{file["accuracy"]:.2f}%',
      f'{file["equal_predictions"]:,}',
      f'{file["largest_error"]:.1e}',
    )
  (console or rich.console.Console()).print(table)


def markdown(described: dict[str, Any]) -> str:
  """Returns the card as a page of Markdown."""
  run, made = described['run'], described['made']
  config = run['config']
  height, width, channels = described['images']
  columns = (
    'file',
    'bytes',
    'times smaller',
    'test accuracy',
    'equal predictions',
    'largest error of logits',
  )
  rows = [
    [
      file['file'],
      f'{file["bytes"]:,}',
      f'{described["trained_bytes"] / file["bytes"]:.1f}',
      f'{file["accuracy"]:.2f} %',
      f'{file["equal_predictions"]:,} of {file["images"]:,}',
      f'{file["largest_error"]:.1e}',
    ]
    for file in described['artefacts']
  ]
  first = described['artefacts'][0]
  # The last file needs the fewest packages to run.
  last = described['artefacts'][-1]['file']
  layers = [mq_jax.LayerSummary(**layer) for layer in described['layers']]
  commit = run['commit'] or 'no checkout'
  counting = (
    ' Convolutions of ±1 count bits.' if described['count_bits'] else ''
  )
  return '\n'.join(
    [
      f'# {described["name"]}',
      '',
      f'A {config["network"]} for {config["dataset"]}. The trained network'
      f' classifies {described["accuracy"]:.2f} % of {first["images"]:,} test'
      f' images correctly; its file has {described["trained_bytes"]:,} bytes.'
      f'{counting}',
      '',
      *table_lines(columns, rows),
      '',
      'Each file was opened in a fresh process. Errors are relative to the'
      ' largest logit of the image in the trained network.',
      '',
      f'Input: `images`, uint8, (N, {height}, {width}, {channels}), RGB without'
      ' preprocessing. Output: `logits`, float32,'
      f' (N, {len(described["classes"])}), of the classes'
      f' {", ".join(described["classes"])}.',
      '',
      '```sh',
      f'python -m experiments.predict {last} IMAGE.png',
      '```',
      '',
      '## Layers',
      '',
      '```',
      str(mq_jax.Summary(tuple(layers), 0)),
      '```',
      '',
      '## Origin',
      '',
      f'Trained {run["date"]} at commit {commit}: quantizer'
      f' {config["quantizer"]}, estimator {config["estimator"]}, optimizer'
      f' {config["optimizer"]}, {config["epochs"]} epochs, seed'
      f' {config["seed"]}, device {run["device"]["kind"]}. Deployed'
      f' {made["date"]} with mq_jax {made["versions"]["mq_jax"]}, jax'
      f' {made["versions"]["jax"]}. The whole configuration is in card.json.',
      '',
    ]
  )
