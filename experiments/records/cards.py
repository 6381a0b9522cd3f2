"""Cards of deployed networks in the ledger: results/deployed/NAME.json."""

import json
import pathlib
from typing import Any

from mq_jax.files import write_atomic

FOLDER = 'deployed'


def read_cards(results: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns all cards of the ledger in the folder `results`, by name."""
  return [
    json.loads(path.read_text(encoding='utf-8'))
    for path in sorted((pathlib.Path(results) / FOLDER).glob('*.json'))
  ]


def enter(results: str | pathlib.Path, card: dict[str, Any]) -> pathlib.Path:
  """Writes a card into the ledger, and replaces an older card of its name.

  Returns:
    The path of the card.
  """
  path = pathlib.Path(results) / FOLDER / f'{card["name"]}.json'
  write_atomic(path, (json.dumps(card, indent=1) + '\n').encode())
  return path
