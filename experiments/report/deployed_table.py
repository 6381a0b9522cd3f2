"""The table of deployed networks, from their cards in the ledger."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.build.networks import make_activation
from experiments.common.markdown import Table
from experiments.deploy.card import file_columns
from experiments.report.tables import join_conditions, join_distinct


def _forward(card: dict[str, Any]) -> str:
  """Returns the network and the quantizers of a run."""
  config = ConfigDict(card['run']['config'])
  words = [config.network, config.quantizer]
  if make_activation(config) is not None:
    words.append(f'{config.activation_quantizer} activations')
  return ', '.join(words + ['counting bits'] * card['count_bits'])


# `(card, artefact) -> text` of each column.
_COLUMNS = {
  'run': lambda card, file: f'`{card["name"]}`',
  'forward': lambda card, file: _forward(card),
  'bits': lambda card, file: join_distinct(
    layer['bits'] for layer in card['layers'] if layer['used'] is not None
  ),
  'trained': lambda card, file: f'{card["accuracy"]:.2f} %',
  'bytes of the run': lambda card, file: f'{card["trained_bytes"]:,}',
}


def deployed_table(cards: Sequence[dict[str, Any]]) -> Table:
  """Returns one row per file of each network."""
  columns = _COLUMNS | file_columns(cards)
  return Table(
    'deployed',
    'Deployed networks, each file run on the test set in a fresh process',
    tuple(columns),
    [
      [text(card, file) for text in columns.values()]
      for card in cards
      for file in card['artefacts']
    ],
    _note(cards),
  )


def _note(cards: Sequence[dict[str, Any]]) -> str:
  if not cards:
    return 'There are no deployed networks yet.'
  values = {
    'Epochs': [card['run']['config']['epochs'] for card in cards],
    'estimator': [card['run']['config']['estimator'] for card in cards],
    'seed': [card['run']['config']['seed'] for card in cards],
    'dataset': [card['run']['config']['dataset'] for card in cards],
    'device': [card['made']['device']['kind'] for card in cards],
    'jax': [card['made']['versions']['jax'] for card in cards],
  }
  return (
    'The bytes of the run are those of its quantized.safetensors, in float32.'
    ' Errors of logits are relative to the largest logit of the example in the'
    f' trained network. {join_conditions(values)}.'
  )
