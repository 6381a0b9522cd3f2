"""The networks of PyTorch that can be imported, and the names of their tensors.

A network is recognised by the names and shapes of its tensors.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mq_jax import models
from mq_jax.models.mobilenet import layer_channels

# Tensors that a network of each family has. A part in front of one of these
# names, such as `module.`, is in front of all names of a file.
_RESNET_BLOCK = 'layer1.0.conv1.weight'
_MOBILENET_STEM = 'features.0.0.weight'
_MOBILENET_LAST = 'features.18.0.weight'
_IMAGENET_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
  ((2, 2, 2, 2), False): 'resnet18',
  ((3, 4, 6, 3), False): 'resnet34',
  ((3, 4, 6, 3), True): 'resnet50',
}
# Common multipliers come first: several multipliers may give equal channels.
_WIDTHS = sorted(
  (hundredths / 100 for hundredths in range(5, 401)),
  key=lambda width: (bool(width % 0.25), bool(round(100 * width) % 5), width),
)


class Found(NamedTuple):
  """A recognised network.

  Attributes:
    net: Linen module of the same network.
    channels: Channels of the images.
    metadata: What a model file records about the network.
    rules: Patterns in our paths and their replacements, in order, which turn
      paths into names of PyTorch.
  """

  net: Any
  channels: int
  metadata: dict[str, str]
  rules: tuple[tuple[str, str], ...]


_ENDS = (
  (r'(kernel|scale)$', 'weight'),
  (r'(mean|var)$', r'running_\1'),
  ('/', '.'),
)
_RESNET_RULES = (
  (r'^stem_norm', 'bn1'),
  (r'^stem', 'conv1'),
  (r'^head', 'fc'),
  (r'^stage(\d)/block(\d+)', r'layer\1.\2'),
  (r'shortcut_norm', 'downsample.1'),
  (r'shortcut', 'downsample.0'),
  (r'norm(\d)', r'bn\1'),
  *_ENDS,
)
# In a block without expansion, the layers have smaller numbers.
MOBILENET_RULES = (
  (r'^stem_norm', 'features.0.1'),
  (r'^stem', 'features.0.0'),
  (r'^last_norm', 'features.18.1'),
  (r'^last', 'features.18.0'),
  (r'^head', 'classifier.1'),
  (r'^block0/depthwise_norm', 'features.1.conv.0.1'),
  (r'^block0/depthwise', 'features.1.conv.0.0'),
  (r'^block0/project_norm', 'features.1.conv.2'),
  (r'^block0/project', 'features.1.conv.1'),
  (r'expand_norm', 'conv.0.1'),
  (r'expand', 'conv.0.0'),
  (r'depthwise_norm', 'conv.1.1'),
  (r'depthwise', 'conv.1.0'),
  (r'project_norm', 'conv.3'),
  (r'project', 'conv.2'),
  *((rf'^block{i}/', f'features.{i + 1}.') for i in range(1, 17)),
  *_ENDS,
)


def without_prefix(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Drops a prefix that all names have in common, such as `module.`."""
  for first in (_RESNET_BLOCK, _MOBILENET_STEM):
    ends = [name for name in arrays if name.endswith(first)]
    prefix = ends[0].removesuffix(first) if ends else ''
    if prefix and all(name.startswith(prefix) for name in arrays):
      return {name.removeprefix(prefix): arrays[name] for name in arrays}
  return dict(arrays)


def identify(arrays: Mapping[str, np.ndarray]) -> Found:
  """Recognises a network by the names and shapes of its tensors.

  Raises:
    ValueError: If no network that can be imported has such tensors.
  """
  found = _resnet(arrays) or _mobilenet(arrays)
  if found is None:
    raise ValueError(
      'it is not a ResNet for CIFAR (conv1, layer1 to layer3, fc), nor'
      " torchvision's resnet18, resnet34, resnet50 (conv1, layer1 to layer4,"
      ' fc) or mobilenet_v2 (features, classifier). Its tensors:'
      f' {few(arrays)}. Save the state dict of such a network.'
    )
  return found


def torch_name(path: str, rules: Iterable[tuple[str, str]]) -> str:
  """Returns the PyTorch name of a variable.

  It is `layer2.0.downsample.0.weight` for
  `params/stage2/block0/shortcut/kernel` of a ResNet.
  """
  name = path.split('/', 1)[1]
  for pattern, replacement in rules:
    name = re.sub(pattern, replacement, name)
  return name


def find_width(channels: Mapping[int, int]) -> float:
  """Returns the width multiplier of a MobileNetV2.

  Args:
    channels: Output channels by the index of the layer: 0 is the stem, 1 to 17
      are the blocks, 18 is the last convolution.

  Raises:
    ValueError: If no multiplier up to 4 in steps of 1/100 gives these channels.
  """
  for width in _WIDTHS:
    expected = layer_channels(width)
    if all(expected[layer] == count for layer, count in channels.items()):
      return width
  raise ValueError(
    'it looks like mobilenet_v2, but its channels'
    f' {[channels[layer] for layer in sorted(channels)]} are those of no width'
    ' multiplier up to 4. Save a network with the layers of the paper.'
  )


def few(names: Iterable[str], count: int = 4) -> str:
  """Returns the first names in alphabetical order, for a message."""
  names = sorted(names)
  rest = f' and {len(names) - count} more' if len(names) > count else ''
  return ', '.join(names[:count]) + rest


def _resnet(arrays: Mapping[str, np.ndarray]) -> Found | None:
  stages = [_blocks(arrays, stage) for stage in (1, 2, 3, 4)]
  ends = _ends(arrays, 'conv1.weight', 'fc.weight')
  # 200 blocks per stage are the deepest ResNet for CIFAR, of 1202 layers.
  if ends is None or not 1 <= stages[0] <= 200:
    return None
  channels, num_classes = ends
  if not stages[3]:
    name = f'resnet{6 * stages[0] + 2}'
    net = models.resnet(6 * stages[0] + 2, num_classes)
    pixels = {}
  else:
    is_bottleneck = 'layer1.0.conv3.weight' in arrays
    name = _IMAGENET_RESNETS.get((tuple(stages), is_bottleneck), '')
    if not name:
      kind = 'bottlenecks' if is_bottleneck else 'basic blocks'
      raise ValueError(
        f'it is a ResNet whose four stages have {stages} {kind}. Use'
        f' {", ".join(_IMAGENET_RESNETS.values())}.'
      )
    net = getattr(models, name)(num_classes)
    pixels = {'pixels': 'imagenet'}
  metadata = {'network': name, 'num_classes': str(num_classes)} | pixels
  return Found(net, channels, metadata, _RESNET_RULES)


def _mobilenet(arrays: Mapping[str, np.ndarray]) -> Found | None:
  ends = _ends(arrays, _MOBILENET_STEM, 'classifier.1.weight')
  last = arrays.get(_MOBILENET_LAST)
  if ends is None or last is None or not last.ndim:
    return None
  channels, num_classes = ends
  found = {0: arrays[_MOBILENET_STEM].shape[0], 18: last.shape[0]}
  for block in range(1, 18):
    # Without expansion, the number of the projection is smaller by one.
    projection = arrays.get(f'features.{block}.conv.{min(block, 2)}.weight')
    if projection is not None and projection.ndim:
      found[block] = projection.shape[0]
  width = find_width(found)
  metadata = {
    'network': 'mobilenet_v2',
    'num_classes': str(num_classes),
    'width': str(width),
    'padding': 'torch',
    'pixels': 'imagenet',
  }
  net = models.mobilenet_v2(num_classes, width=width)
  return Found(net, channels, metadata, MOBILENET_RULES)


def _blocks(arrays: Mapping[str, np.ndarray], stage: int) -> int:
  pattern = rf'layer{stage}\.(\d+)\.conv1\.weight'
  matches = (re.fullmatch(pattern, name) for name in arrays)
  return len({match[1] for match in matches if match})


def _ends(
  arrays: Mapping[str, np.ndarray], stem: str, head: str
) -> tuple[int, int] | None:
  """Returns the channels of images and the number of classes, if both exist."""
  first, last = (arrays.get(name, np.zeros(())) for name in (stem, head))
  if (first.ndim, last.ndim) != (4, 2) or not first.size or not last.size:
    return None
  return first.shape[1], last.shape[0]
