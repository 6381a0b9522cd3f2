"""The card of a deployed network: what it is, how large, how good.

As card.json it is also the network's entry in the ledger, in results/deployed/.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np

import mq_jax
from experiments import data, ledger, metrics, packed_network
from mq_jax.packed_file import write_whole

FOLDER = 'deployed'
TOLERANCE = 1e-4  # of logits, over an image's largest


def describe(
  name: str,
  header: dict[str, Any],
  path: pathlib.Path,
  packed: mq_jax.PackedParams,
  dataset: data.Dataset,
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
    JSON: 'name', 'classes', 'images' (the shape of one), 'accuracy' of the
    trained network (percent), 'trained_bytes' of its file, 'layers' (fields of
    `mq_jax.Summary`), 'run' and 'made' (headers of `metrics.describe_run`),
    'artefacts' (empty: `compared` makes them).
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
    'accuracy': _accuracy(logits, dataset.test_labels),
    'trained_bytes': path.stat().st_size,
    'layers': [
      layer._asdict() | {'shape': list(layer.shape)} for layer in layers.layers
    ],
    'artefacts': [],
    'run': ledger.without_folders(header),
    'made': ledger.without_folders(metrics.describe_run(header['config'])),
  }


def compared(
  path: pathlib.Path,
  found: np.ndarray,
  expected: np.ndarray,
  labels: np.ndarray,
) -> dict[str, Any]:
  """What is to know of one artefact.

  Args:
    path: Its file.
    found: Its logits, `(images, classes)`.
    expected: Those of the trained network.
    labels: `(images,)`.

  Returns:
    JSON: 'file', 'bytes', 'accuracy' (percent), 'images', 'equal_predictions',
    'equal_logits' (images whose logits are within `TOLERANCE`), and
    'largest_error': of an image's logits, over the largest of them.
  """
  error = np.abs(found - expected).max(1) / np.abs(expected).max(1)
  # A NaN is no small error.
  error = np.nan_to_num(error, nan=np.inf)
  equal = found.argmax(1) == expected.argmax(1)
  return {
    'file': path.name,
    'bytes': path.stat().st_size,
    'accuracy': _accuracy(found, labels),
    'images': len(labels),
    'equal_predictions': int(equal.sum()),
    'equal_logits': int((error <= TOLERANCE).sum()),
    'largest_error': float(error.max()),
  }


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
  layers = [mq_jax.LayerSummary(**layer) for layer in described['layers']]
  commit = run['commit'] or 'no checkout'
  return '\n'.join(
    [
      f'# {described["name"]}',
      '',
      f'A {config["network"]} for {config["dataset"]}:'
      f' {described["accuracy"]:.2f} % of {first["images"]:,} test images as it'
      f' was trained, in a file of {described["trained_bytes"]:,} bytes.',
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
      f'python -m experiments.predict {first["file"]} IMAGE.png',
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
  write_whole(path, (json.dumps(described, indent=1) + '\n').encode())
  return path


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
  return 100 * float(np.mean(logits.argmax(1) == labels))
