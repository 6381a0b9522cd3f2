"""Draws the packages of the project as layers.

  python -m benchmarks.packages [--folder docs/figures]

reads the layers that pyproject.toml declares, which `make lint` checks, and
writes packages.png.
"""

import argparse
import pathlib
import tomllib

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = pathlib.Path('docs/figures')
HEIGHT = 0.34  # inches per layer
COLOURS = {'experiments': '#cfe3f5', 'mq_jax': '#f8d9bf', 'outside': '#e6e6e6'}
# The library is one layer here; inside it, only mq_jax.models imports flax.
LIBRARY = [
  'models',
  'train step, quantizers, estimators, methods, activations, packing',
]
OUTSIDE = ['jax, optax, chex, numpy, safetensors; flax']


def layers() -> list[list[str]]:
  """Returns the packages of each layer of the experiments, the top first."""
  text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
  contracts = tomllib.loads(text)['tool']['importlinter']['contracts']
  (declared,) = (c for c in contracts if c['type'] == 'layers')
  return [layer.split(' : ') for layer in declared['layers']]


def draw() -> Figure:
  """Returns the figure: a row per layer, which imports the rows below it."""
  rows = [('experiments', ', '.join(layer)) for layer in layers()]
  rows += [('mq_jax', name) for name in LIBRARY]
  rows += [('outside', name) for name in OUTSIDE]
  figure = Figure(figsize=(8, HEIGHT * len(rows) + 0.2), dpi=150)
  axis = figure.add_axes((0, 0, 1, 1))
  for row, (kind, text) in enumerate(rows):
    _box(axis, len(rows) - 1 - row, COLOURS[kind], text)
  first = {kind: row for row, (kind, _) in reversed([*enumerate(rows)])}
  for kind, row in first.items():
    label = {'outside': 'packages'}.get(kind, kind)
    y = len(rows) - 0.5 - row
    axis.text(0.02, y, label, va='center', ha='left', weight='bold', size=9)
  axis.set_xlim(0, 1)
  axis.set_ylim(-0.1, len(rows) + 0.1)
  axis.axis('off')
  return figure


def _box(axis: Axes, y: float, colour: str, text: str) -> None:
  box = FancyBboxPatch(
    (0.16, y + 0.08), 0.82, 0.84, 'square,pad=0', fc=colour, ec='0.5', lw=0.6
  )
  axis.add_patch(box)
  axis.text(0.57, y + 0.5, text, va='center', ha='center', size=8.5)


def main() -> None:
  """Writes the figure."""
  options = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  options.add_argument('--folder', type=pathlib.Path, default=FOLDER)
  folder = options.parse_args().folder
  folder.mkdir(parents=True, exist_ok=True)
  draw().savefig(folder / 'packages.png')
  print(f'wrote {folder / "packages.png"}')


if __name__ == '__main__':
  main()
