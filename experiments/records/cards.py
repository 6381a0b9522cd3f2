"""Cards of deployed networks in the ledger: results/deployed/NAME.json."""

import json
import pathlib
from typing import Any

from experiments.common import sealed
from experiments.common.errors import InvalidError
from mq_jax.files import write_atomic

FOLDER = 'deployed'


def read_cards(results: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns all cards of the ledger in the folder `results`, by name.

  Raises:
    InvalidError: If a card is damaged; the message names it.
  """
  cards = []
  for path in sorted((pathlib.Path(results) / FOLDER).glob('*.json')):
    try:
      card = json.loads(path.read_text(encoding='utf-8'))
      is_card = card['name'] == path.stem
    except (ValueError, RecursionError, LookupError, TypeError):
      is_card = False
    if not is_card:
      raise InvalidError(
        f'{path} is damaged, or not the card of a deployed network. Delete it,'
        ' and deploy the network again.'
      )
    cards.append(sealed.unseal(path, card))
  return cards


def enter(results: str | pathlib.Path, card: dict[str, Any]) -> pathlib.Path:
  """Writes a card into the ledger, and replaces an older card of its name.

  Returns:
    The path of the card.
  """
  path = pathlib.Path(results) / FOLDER / f'{card["name"]}.json'
  write_atomic(path, to_bytes(card))
  return path


def to_bytes(card: dict[str, Any]) -> bytes:
  """Returns the content of the file of a card."""
  card = json.loads(json.dumps(card))  # As it will be read.
  return (json.dumps(sealed.seal(card), indent=1) + '\n').encode()
