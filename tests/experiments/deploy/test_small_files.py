"""Tests that each shipped file is small, and runs as its card says."""

import json
import pathlib

import numpy as np
import pytest

from experiments.common import sealed
from experiments.deploy import loading, make

ROOT = pathlib.Path(__file__).parents[3]
FOLDERS = sorted((ROOT / 'small_files').iterdir())


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_shipped_file_is_that_of_its_card_and_runs(folder):
  card = sealed.unseal(folder, json.loads((folder / loading.CARD).read_text()))
  (entry,) = card['artefacts']
  path = folder / entry['file']
  assert path.stat().st_size == entry['bytes'] < 90_000
  assert f'{card["accuracy"]:.2f} %' in (folder / make.PAGE).read_text()
  # It compares the SHA-256 of the file with the card.
  network = loading.load(path)
  assert network.classes == tuple(card['classes'])
  images = np.random.default_rng(0).integers(0, 256, (2, *card['images']))
  logits = network.logits(images.astype(np.uint8))
  assert logits.shape == (2, len(network.classes))
  assert np.ptp(logits, axis=0).min() > 0
