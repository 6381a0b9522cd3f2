"""The table of deployed networks, from their cards in the ledger."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.deploy import card
from experiments.report import tables

_COLUMNS = (
  *('run', 'forward', 'bits', 'trained', 'bytes of the run', 'file', 'bytes'),
  *('times smaller', 'test accuracy', 'equal predictions', 'largest error'),
)


def read_cards(results: str | pathlib.Path) -> list[dict[str, Any]]:
  """All cards of the ledger, by name."""
  folder = pathlib.Path(results) / card.FOLDER
  return [
    json.loads(path.read_text(encoding='utf-8'))
    for path in sorted(folder.glob('*.json'))
  ]


def deployed_table(cards: Sequence[dict[str, Any]]) -> tables.Table:
  """A row for each file of each network."""
  rows = [_row(one, file) for one in cards for file in one['artefacts']]
  return tables.Table(
    'deployed',
    'Deployed networks, each file run on the test images in a fresh process',
    _COLUMNS,
    rows,
    _note(cards),
  )


def _row(described: dict[str, Any], file: dict[str, Any]) -> list[str]:
  layers = [one for one in described['layers'] if one['used'] is not None]
  bits = sorted({layer['bits'] for layer in layers})
  return [
    f'`{described["name"]}`',
    ', '.join(_forward(described)),
    ', '.join(map(str, bits)),
    f'{described["accuracy"]:.2f} %',
    f'{described["trained_bytes"]:,}',
    file['file'],
    f'{file["bytes"]:,}',
    f'{described["trained_bytes"] / file["bytes"]:.1f}',
    f'{file["accuracy"]:.2f} %',
    f'{file["equal_predictions"]:,} of {file["images"]:,}',
    f'{file["largest_error"]:.1e}',
  ]


def _forward(described: dict[str, Any]) -> list[str]:
  config = described['run']['config']
  words = [config['network'], config['quantizer']]
  if config['activation_quantizer'] != 'relu':
    words.append(f'{config["activation_quantizer"]} activations')
  return words + ['counting bits'] * described['count_bits']


def _note(cards: Sequence[dict[str, Any]]) -> str:
  if not cards:
    return 'No network was deployed yet.'
  runs = [one['run'] for one in cards]

  def all_of(values: set[Any]) -> str:
    return ', '.join(map(str, sorted(values)))

  return (
    'Bytes of the run: its quantized.safetensors, float32. Errors of logits are'
    " relative to an image's largest one in the trained network. Epochs"
    f' {all_of({run["config"]["epochs"] for run in runs})}; estimator'
    f' {all_of({run["config"]["estimator"] for run in runs})}; seed'
    f' {all_of({run["config"]["seed"] for run in runs})}; dataset'
    f' {all_of({run["config"]["dataset"] for run in runs})}; device'
    f' {all_of({one["made"]["device"]["kind"] for one in cards})}; jax'
    f' {all_of({one["made"]["versions"]["jax"] for one in cards})}.'
  )
