"""The card of a deployed network: what it is, how large, how good.

As card.json it is also the network's entry in the ledger, in results/deployed/.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

import mq_jax
from experiments.data import datasets
from experiments.deploy import check, packed_network
from experiments.records import ledger, run_log
from mq_jax.packing.packed_file import write_atomic

FOLDER = 'deployed'


def describe(
  name: str,
  header: dict[str, Any],
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  dataset: datasets.Dataset,
  logits: np.ndarray,
) -> dict[str, Any]:
  """The card, without its artefacts.

  Args:
    name: Of the run.
    header: Of the run's log.
    path: The trained network's file.
    packed: What is deployed.
    dataset: Its test set.
    logits: Of the trained network, on these images.

  Returns:
    JSON: 'name', 'classes', 'images' (the shape of one), 'count_bits' (whether
    convolutions of ±1 do), 'accuracy' of the trained network (percent),
    'trained_bytes' of its file, 'layers' (fields of `mq_jax.Summary`), 'run'
    and 'made' (headers of `run_log.describe_run`), 'artefacts' (empty:
    `check.compared` makes them).
  """
  shape = dataset.test_images.shape[1:]
  layers = mq_jax.summary(
    packed,
    apply_fn=lambda params, images: packed_network.logits_of(
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
  """Prints what the files are worth.

  Args:
    described: The card.
    console: Where to print; standard output by default.
  """
  table = rich.table.Table(
    title=f'{described["name"]}: {described["accuracy"]:.2f}% as trained',
  )
  table.add_column('file', no_wrap=True)
  equal = f'of {described["artefacts"][0]["images"]:,} equal'
  for name in ('bytes', 'smaller', 'accuracy', equal, 'error'):
    table.add_column(name, justify='right')
  for one in described['artefacts']:
    table.add_row(
      one['file'],
      f'{one["bytes"]:,}',
      f'{described["trained_bytes"] / one["bytes"]:.1f}x',
      f'{one["accuracy"]:.2f}%',
      f'{one["equal_predictions"]:,}',
      f'{one["largest_error"]:.1e}',
    )
  (console or rich.console.Console()).print(table)


def markdown(described: dict[str, Any]) -> str:
  """The card as a person reads it."""
  run, made = described['run'], described['made']
  config = run['config']
  height, width, channels = described['images']
  rows = [
    f'| {one["file"]} | {one["bytes"]:,} |'
    f' {described["trained_bytes"] / one["bytes"]:.1f} |'
    f' {one["accuracy"]:.2f} % | {one["equal_predictions"]:,} of'
    f' {one["images"]:,} | {one["largest_error"]:.1e} |'
    for one in described['artefacts']
  ]
  first = described['artefacts'][0]
  # The one that takes least to run comes last.
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
      f'A {config["network"]} for {config["dataset"]}:'
      f' {described["accuracy"]:.2f} % of {first["images"]:,} test images as it'
      f' was trained, in a file of {described["trained_bytes"]:,} bytes.'
      f'{counting}',
      '',
      '| file | bytes | times smaller | test accuracy | equal predictions |'
      ' largest error of logits |',
      '| --- | --- | --- | --- | --- | --- |',
      *rows,
      '',
      'Each file was opened in a fresh process. Errors are relative to the'
      " largest of an image's logits in the trained network.",
      '',
      f'In: `images`, uint8, (N, {height}, {width}, {channels}), RGB as they'
      f' are; out: `logits`, float32, (N, {len(described["classes"])}), of the'
      f' classes {", ".join(described["classes"])}.',
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
      '## Where it is from',
      '',
      f'Trained {run["date"]} at commit {commit}: quantizer'
      f' {config["quantizer"]}, estimator {config["estimator"]}, optimizer'
      f' {config["optimizer"]}, {config["epochs"]} epochs, seed'
      f' {config["seed"]}, device {run["device"]["kind"]}. Made {made["date"]}'
      f' with mq_jax {made["versions"]["mq_jax"]}, jax'
      f' {made["versions"]["jax"]}. The whole configuration is in card.json.',
      '',
    ]
  )


def enter(
  results: str | pathlib.Path, described: dict[str, Any]
) -> pathlib.Path:
  """Writes a card into the ledger, in place of an older one of its name."""
  path = pathlib.Path(results) / FOLDER / f'{described["name"]}.json'
  write_atomic(path, (json.dumps(described, indent=1) + '\n').encode())
  return path
