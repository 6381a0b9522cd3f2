"""The table of all methods: what each changes, costs, promises and reached."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.records import ledger
from experiments.report import comparison, tables
from experiments.study import spec

COSTS = 'benchmarks/cpu-methods.json'  # within the folder of the ledger
_COLUMNS = (
  'recipe',
  'method',
  'changes',
  'numbers kept a weight',
  'step / STE',
  'published',
  'measured',
  'status',
)


class About(NamedTuple):
  """What no measurement says of a recipe.

  Attributes:
    method: Name, and bits of weights and activations where both are quantized.
    changes: Forward, backward, optimizer and schedule, as far as it has them.
    published: Test accuracy in percent on CIFAR-10 unless said, and of what;
      (r): recalled by us, not read again.
    status: What is not as in its paper, as far as it is known.
  """

  method: str
  changes: str
  published: str = ''
  status: str = ''


ABOUT = {
  'binaryconnect': About(
    'BinaryConnect',
    'forward sign(W); backward g_hat; post_update: clip to [−1, 1]',
    'ResNet20 90.46 (r)',
    'nothing is frozen',
  ),
  'bwn': About(
    'BWN',
    'forward α·sign(W), α a filter; backward α·g_hat within [−1, 1]',
    'ResNet-18, ImageNet 60.8',
    'momentum and rate ours',
  ),
  'xnor': About(
    'XNOR-Net, 1/1',
    'as BWN; activations ±1, backward within [−1, 1]',
    'ResNet-18, ImageNet 51.2 (r)',
    'no scale a place, weights not centred; layers in the usual order',
  ),
  'bi_real': About(
    'Bi-Real, 1/1',
    'as BWN, slope 1; activations ±1, backward 2 − 2|x|',
    'ResNet-18, ImageNet 56.4',
    'a shortcut a block, not a convolution, with binary inputs; no stages',
  ),
  'hwgq': About(
    'HWGQ, 1/2',
    'as BWN, slope 1; activations on half-normal levels, clipped ReLU backward',
    'VGG-Small 92.0 to 92.5',
    'batch norm keeps its scale and shift; rate ours',
  ),
  'dorefa_w2a2': About(
    'DoReFa, 2/2',
    'forward tanh and a grid; backward g_hat; activations a grid on [0, 1]',
    "ResNet20 88.2 (PACT's runs)",
    'gradients are not quantized',
  ),
  'pact_w4a4': About(
    'PACT, 4/4',
    'weights as DoReFa; activations with a trained, decayed clip',
    'ResNet20 91.3',
    'blocks in their usual order',
  ),
  'lsq': About(
    'LSQ, 2 bits',
    'forward a grid of trained step; backward g_hat within it',
    '',
    'the published recipe is for ImageNet',
  ),
  'lsq_w2a2': About(
    'LSQ, 2/2',
    'as LSQ, activations too',
    '',
    'as above; the first step of activations is a constant',
  ),
  'twn': About(
    'TWN',
    'forward ternary, threshold and scale from mean |W|; backward g_hat',
    'ResNet-18, ImageNet 61.8',
    'recipe recalled',
  ),
  'ttq': About(
    'TTQ',
    'forward −W_n, 0, W_p, both trained; backward scaled by them',
    'ResNet20 91.13',
    '200 epochs, of 400 at most',
  ),
  'lab': About(
    'LAB',
    'forward α·sign(W), α weighted by the curvature; backward g_hat; clip',
    'LABNet 89.50',
    'images are not whitened',
  ),
  'lq_nets': About(
    'LQ-Nets, 2 bits',
    'forward levels learned a filter (QEM); backward g_hat',
    'ResNet20 91.8 (r)',
    'recipe that of VGG-Small',
  ),
  'lq_nets_vgg': About(
    'LQ-Nets, 2/2',
    'as LQ-Nets',
    'VGG-Small 93.5',
    "activations are LSQ's",
  ),
  'proxquant': About(
    'ProxQuant, binary',
    'forward W; post_update: pull towards ±1, rising, then freeze',
    'ResNet20 90.65 (r)',
  ),
  'proxquant_ternary': About(
    'ProxQuant, ternary',
    'forward W; post_update: pull towards ternary levels, rising, then freeze',
    'ResNet20 91.60 (r)',
  ),
  'binary_relax': About(
    'BinaryRelax',
    'forward between W and α·sign(W), by λ, which rises; backward g_hat',
    '',
    'recipe recalled',
  ),
  'inq': About(
    'INQ, 5 bits',
    'forward W; post_update: largest weights onto powers of two, by portions',
    'ResNet-18, ImageNet 68.98',
    'the rate does not start anew with each portion',
  ),
  'elq': About(
    'ELQ, ternary',
    'forward W; refine: two penalties; post_update: portions as INQ',
    'ResNet-18, ImageNet, binary: drop 3.55',
    'a reconstruction',
  ),
  'admm': About(
    'ADMM, ternary',
    'forward W; refine: pull towards the projection, with a dual variable',
    'ResNet-18, ImageNet 67.0 (r)',
    'plain steps, ρ and rounds ours',
  ),
  'psgd': About(
    'PSGD, 4 bits',
    'forward W; refine: gradients scaled by the distance to the grid',
    'ResNet-32, CIFAR-100 69.57',
    'the grid follows max |W| at once',
  ),
  'slb': About(
    'SLB, 1 bit',
    'trained: a number a level; forward their softmax, sharper and sharper',
    'ResNet20 90.6',
    'statistics taken anew an epoch, not a step; 400 epochs of 500',
  ),
  'slb_vgg': About(
    'SLB, 1/1',
    'as SLB',
    'VGG-Small 92.0',
    'as above',
  ),
  'uniform': About(
    'Uniform, 4 bits, after training', 'a grid a layer, up to max |W|'
  ),
  'aciq': About(
    'ACIQ, 4 bits, after training',
    "a grid a filter, clipped where a prior's error is least; bias corrected",
    'ResNet-50, ImageNet, 4/4: 73.33',
    'no allocation of bits',
  ),
  'lapq': About(
    'LAPQ, 4 bits, after training',
    'clips by Lp norms, then all together by the loss of 512 images',
    'ResNet-18, ImageNet, 4/4: 60.3',
    'weights only',
  ),
}


def read_costs(results: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """The rows of `benchmarks.methods` by recipe; none if it never ran."""
  path = results / COSTS
  if not path.exists():
    return {}
  rows = json.loads(path.read_text(encoding='utf-8'))['rows']
  return {row['method']: row for row in rows}


def method_table(
  study: spec.Study,
  runs: Sequence[ledger.Run],
  costs: Mapping[str, Mapping[str, Any]],
) -> tables.Table:
  """One row a recipe.

  Args:
    study: `experiments.studies.methods`.
    runs: Of the ledger.
    costs: Of `read_costs`.

  Returns:
    The table.
  """
  rows = []
  for name, config in study.settings.items():
    about, cost = ABOUT[name], costs.get(name)
    rows.append(
      [
        f'`{name}`',
        about.method,
        about.changes,
        f'{cost["numbers kept a weight"]:.2f}' if cost else '',
        f'{cost["time / STE"][0]:.2f}' if cost else '',
        about.published,
        _measured(comparison.cell(config, runs), config),
        about.status,
      ]
    )
  return tables.Table('methods-overview', study.title, _COLUMNS, rows, '')


def _measured(ours: comparison.Cell | None, config: ConfigDict) -> str:
  if ours is None:
    return 'no run'
  if not ours.records:
    return 'diverged'
  record = next(iter(ours.records.values()))[-1]
  text = f'{record["test_accuracy"]:.2f}'
  if 'relaxed_accuracy' in record:
    text = f'{record["relaxed_accuracy"]:.2f} → {text}'
  remarks = []
  if ours.base_accuracy is None:
    remarks.append('from random weights')
  if config.holdout:
    remarks.append(f'on {config.holdout:,} held-out images')
  return ', '.join([text, *remarks])
