"""The table of deployed networks, from their cards in the ledger."""

from collections.abc import Sequence
from typing import Any

from experiments.common.markdown import Table

_COLUMNS = (
  'run',
  'forward',
  'bits',
  'trained',
  'bytes of the run',
  'file',
  'bytes',
  'times smaller',
  'test accuracy',
  'equal predictions',
  'largest error',
)


def deployed_table(cards: Sequence[dict[str, Any]]) -> Table:
  """Returns one row per file of each network."""
  rows = [_row(card, file) for card in cards for file in card['artefacts']]
  return Table(
    'deployed',
    'Deployed networks, each file run on the test images in a fresh process',
    _COLUMNS,
    rows,
    _note(cards),
  )


def _row(card: dict[str, Any], file: dict[str, Any]) -> list[str]:
  bits = sorted(
    {layer['bits'] for layer in card['layers'] if layer['used'] is not None}
  )
  return [
    f'`{card["name"]}`',
    ', '.join(_forward(card)),
    ', '.join(map(str, bits)),
    f'{card["accuracy"]:.2f} %',
    f'{card["trained_bytes"]:,}',
    file['file'],
    f'{file["bytes"]:,}',
    f'{card["trained_bytes"] / file["bytes"]:.1f}',
    f'{file["accuracy"]:.2f} %',
    f'{file["equal_predictions"]:,} of {file["images"]:,}',
    f'{file["largest_error"]:.1e}',
  ]


def _forward(card: dict[str, Any]) -> list[str]:
  config = card['run']['config']
  words = [config['network'], config['quantizer']]
  if config['activation_quantizer'] != 'relu':
    words.append(f'{config["activation_quantizer"]} activations')
  return words + ['counting bits'] * card['count_bits']


def _note(cards: Sequence[dict[str, Any]]) -> str:
  if not cards:
    return 'There are no deployed networks yet.'
  runs = [card['run'] for card in cards]

  def all_of(values: set[Any]) -> str:
    return ', '.join(map(str, sorted(values)))

  return (
    'Bytes of the run: its quantized.safetensors, float32. Errors of logits are'
    " relative to an image's largest one in the trained network. Epochs"
    f' {all_of({run["config"]["epochs"] for run in runs})}; estimator'
    f' {all_of({run["config"]["estimator"] for run in runs})}; seed'
    f' {all_of({run["config"]["seed"] for run in runs})}; dataset'
    f' {all_of({run["config"]["dataset"] for run in runs})}; device'
    f' {all_of({card["made"]["device"]["kind"] for card in cards})}; jax'
    f' {all_of({card["made"]["versions"]["jax"] for card in cards})}.'
  )
