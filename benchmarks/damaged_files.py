"""The files that benchmarks.damage damages: how each is made and read."""

import importlib.util
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import mq_jax
from experiments.common import files, sealed
from experiments.common.errors import InvalidError, UserError
from experiments.configs import digits
from experiments.data import archives, cifar_archives, prepare, store
from experiments.deploy import artefact, export, loading, program, worker
from experiments.records import (
  cards,
  checkpoints,
  ledger,
  model_file,
  run_log,
  torch_file,
)
from tests.experiments.data import cifar_files

Notify = Callable[[str], object]
IMAGE = (32, 32, 3)
_ENTRY = {
  'date': 'today',
  'device': {'kind': 'cpu'},
  'versions': {'jax': '0'},
  'start': {'base_accuracy': 91.5},
}


class Format(NamedTuple):
  """A kind of file.

  Attributes:
    make: `(folder)`, writes an undamaged example.
    read: `(folder, notify)`, returns what the files contain, a pytree of
      arrays, numbers and text. It raises one of `errors` if it refuses the
      files, and calls `notify` if it accepts them with a notice.
    files: Pattern of the files that are damaged, one at a time.
    confirm: `(folder, notify)`, reads the same values as a user does. Called
      instead of counting an error or a crash of `read`, which then runs in the
      process that users run it in.
    errors: Classes of documented errors.
    share: Share of the damages that this format gets.
  """

  make: Callable[[pathlib.Path], Any]
  read: Callable[[pathlib.Path, Notify], Any]
  files: str
  confirm: Callable[[pathlib.Path, Notify], Any] | None = None
  errors: tuple[type[Exception], ...] = (UserError,)
  share: float = 1.0


def _weights() -> dict[str, Any]:
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(3, 3, 4, 8)).astype(np.float32)
  return {
    'conv': {'kernel': kernel},
    'head': {'kernel': kernel.reshape(-1, 4), 'bias': kernel[0, 0, 0]},
  }


def _make_model(folder: pathlib.Path) -> None:
  statistics = {'norm': {'mean': np.arange(8, dtype=np.float32)}}
  texts = {'network': 'resnet8', 'accuracy': '82.46'}
  path = folder / 'model.safetensors'
  model_file.save_model(path, _weights(), statistics, texts)


def _make_packed(folder: pathlib.Path) -> None:
  packed = mq_jax.pack(
    _weights(), [('.*/kernel', mq_jax.dorefa(2))], metadata={'classes': '10'}
  )
  mq_jax.save_packed(folder / 'packed.safetensors', packed)


def _read_packed(folder: pathlib.Path, notify: Notify) -> Any:
  del notify
  packed = mq_jax.load_packed(folder / 'packed.safetensors')
  return mq_jax.unpack(packed), packed.model_state, packed.metadata


def _state() -> dict[str, Any]:
  arrays = jax.tree.map(jnp.asarray, _weights())
  return {'params': arrays, 'key': jax.random.key(1), 'step': jnp.int32(5)}


def _make_checkpoints(folder: pathlib.Path) -> None:
  with checkpoints.open_manager(folder) as manager:
    progress = {'epoch': 1, 'loss': 0.1 + 0.2}
    checkpoints.save(manager, 5, _state(), progress)


def _read_checkpoints(folder: pathlib.Path, notify: Notify) -> Any:
  template = jax.eval_shape(_state)
  with checkpoints.open_manager(folder) as manager:
    restored = checkpoints.restore_latest(manager, template, notify=notify)
  if restored is None:
    raise InvalidError('There is no checkpoint.')
  state = restored.state | {'key': jax.random.key_data(restored.state['key'])}
  return restored.step, state, restored.progress


def _make_entry(folder: pathlib.Path) -> None:
  config = digits.get_config().to_dict() | {'epochs': 3}
  epochs = [
    {'epoch': i, 'step': 5 * i, 'seconds': 1.5, 'train_loss': 1 / i}
    | {'test_loss': 0.5 / i, 'test_accuracy': 82.46 + i}
    for i in (1, 2, 3)
  ]
  log = folder / 'run' / 'metrics.jsonl'
  log.parent.mkdir()
  log.write_bytes(run_log.to_lines((_ENTRY | {'config': config}, *epochs)))
  ledger.add(log.parent, folder, 'entry')
  shutil.rmtree(log.parent)


def _read_entry(folder: pathlib.Path, notify: Notify) -> Any:
  del notify
  (run,) = ledger.read(folder)
  return {key: run.header.get(key) for key in ('config', *_ENTRY)}, run.records


def _make_card(folder: pathlib.Path) -> None:
  file = {'file': 'model.stablehlo', 'sha256': '0' * 64, 'accuracy': 82.46}
  card = {'name': 'net', 'classes': list('abc'), 'artefacts': [file]}
  cards.enter(folder, card)


def _read_card(folder: pathlib.Path, notify: Notify) -> Any:
  del notify
  (card,) = cards.read_cards(folder)
  return {key: card.get(key) for key in ('name', 'classes', 'artefacts')}


class _Net(nn.Module):
  """A network of one convolution and one dense layer."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.relu(nn.Conv(8, (3, 3), strides=4)(x))
    return nn.Dense(10)(x.mean((1, 2)))


def _make_program(folder: pathlib.Path) -> None:
  net = _Net()
  params = net.init(jax.random.key(0), jnp.zeros((1, *IMAGE)))['params']
  packed = mq_jax.pack(params, [('.*/kernel', mq_jax.dorefa(2))])

  def logits(images: jax.Array) -> jax.Array:
    variables = {'params': mq_jax.unpack(packed)}
    return jnp.asarray(net.apply(variables, images.astype(jnp.float32)))

  path = folder / 'model.stablehlo'
  path.write_bytes(export.stablehlo(logits, IMAGE))


def _make_program_and_card(folder: pathlib.Path) -> None:
  _make_program(folder)
  path = folder / 'model.stablehlo'
  entry = {'file': path.name, 'sha256': files.sha256(path)}
  card = sealed.seal({'classes': list('abcdefghij'), 'artefacts': [entry]})
  (folder / loading.CARD).write_text(json.dumps(card))


def _images() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (2, *IMAGE), np.uint8)


def _check_program(folder: pathlib.Path, notify: Notify) -> Any:
  network = program.load(folder / 'model.stablehlo')
  notify('no card')
  return network.shape, network.logits(_images())


def _run_program(folder: pathlib.Path, notify: Notify) -> Any:
  network = loading.load(folder / 'model.stablehlo', notify=notify)
  return network.shape, network.classes, network.logits(_images())


def _open_worker(folder: pathlib.Path, notify: Notify) -> Any:
  network = worker.start(folder / 'model.stablehlo')
  notify('no card')
  return network.shape, network.logits(_images())


def _digest_only(folder: pathlib.Path, notify: Notify) -> Any:
  """Opens a file beside its card, without the process of the program."""
  start, worker.start = worker.start, _no_program
  try:
    return loading.load(folder / 'model.stablehlo', notify=notify)[1:]
  finally:
    worker.start = start


def _no_program(
  path: pathlib.Path, exact: bool = False, platform: str = ''
) -> artefact.Artefact:
  del path, exact, platform
  return artefact.Artefact(lambda images: images, IMAGE[:2], ())


def _archive(mode: str, name: str, contents: dict[str, bytes]) -> Format:
  """Declares an archive, whose MD5 counts as official."""
  official: list[str] = []

  def make(folder: pathlib.Path) -> None:
    cifar_files.write_tar(folder / 'cifar.tar', contents, mode)

  def read(folder: pathlib.Path, notify: Notify) -> Any:
    path = folder / 'cifar.tar'
    if not official:  # The first example is undamaged.
      official.append(archives.md5(path))
      cifar_archives.OFFICIAL_MD5[official[0]] = path.name
    sizes = cifar_files.SIZES[name]
    return cifar_archives.read_source(path, sizes=sizes, notify=notify)

  return Format(make, read, 'cifar.tar')


def _prepare(folder: pathlib.Path) -> pathlib.Path:
  source = folder / 'source'
  source.mkdir()
  for name, content in cifar_files.binary_files('cifar10').items():
    (source / name).write_bytes(content)
  made = prepare.prepare(source, folder, sizes=cifar_files.SIZES['cifar10'])
  shutil.rmtree(source)
  return made


def _make_shards(folder: pathlib.Path) -> None:
  (_prepare(folder) / store.CACHE).unlink()


def _read_set(folder: pathlib.Path, notify: Notify) -> Any:
  del notify
  (info,) = folder.glob('*/*/dataset_info.json')
  return store.read_prepared(info.parent)


def _make_torch(folder: pathlib.Path) -> None:
  import torch

  tensors = {k: torch.tensor(v) for k, v in _weights()['head'].items()}
  torch.save(tensors, folder / 'net.pth')


def _models(folder: pathlib.Path, notify: Notify) -> Any:
  del notify
  model = model_file.load_model(folder / 'model.safetensors')
  texts = {key: model.metadata.get(key) for key in ('network', 'accuracy')}
  return model.params, model.batch_stats, texts


def formats() -> dict[str, Format]:
  """Returns each kind of file by its name."""

  def binary(name: str) -> tuple[str, dict[str, bytes]]:
    return name, cifar_files.binary_files(name)

  def python(name: str) -> tuple[str, dict[str, bytes]]:
    return name, cifar_files.python2_files(name)

  found = {
    'model file': Format(_make_model, _models, '*.safetensors'),
    'packed file': Format(
      _make_packed, _read_packed, '*.safetensors', errors=(ValueError,)
    ),
    'checkpoint': Format(_make_checkpoints, _read_checkpoints, '**/*'),
    'ledger entry': Format(_make_entry, _read_entry, '*.jsonl'),
    'card': Format(_make_card, _read_card, '*/*.json'),
    'program, checks': Format(
      _make_program, _check_program, '*.stablehlo', _open_worker
    ),
    'program, run': Format(
      _make_program, _run_program, '*.stablehlo', share=0.02
    ),
    'program and card': Format(
      _make_program_and_card, _digest_only, '*.stablehlo'
    ),
    'CIFAR-10 binary.tar': _archive('w', *binary('cifar10')),
    'CIFAR-100 binary.tar.gz': _archive('w:gz', *binary('cifar100')),
    'CIFAR-10 python.tar.gz': _archive('w:gz', *python('cifar10')),
    'CIFAR-100 python.tar': _archive('w', *python('cifar100')),
    'prepared set': Format(_make_shards, _read_set, '*/*/*.array_record*'),
    'decoded pixels': Format(_prepare, _read_set, f'*/*/{store.CACHE}'),
  }
  if importlib.util.find_spec('torch') is not None:
    found['PyTorch file'] = Format(
      _make_torch,
      lambda folder, notify: torch_file.read_state_dict(folder / 'net.pth'),
      '*.pth',
    )
  return found
