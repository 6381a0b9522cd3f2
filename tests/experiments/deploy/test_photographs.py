"""Tests deployed files of a run on photographs, and their predictions."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

import mq_jax
from experiments import predict, training
from experiments.common import sealed
from experiments.common.errors import InvalidError
from experiments.data.raw_examples import Inputs
from experiments.deploy import artefact, loading, make, packed_network
from experiments.records import model_file, workdir
from experiments.training.train import make_pipeline
from tests.experiments import tiny
from tests.experiments.data import photo_files

CLASSES = ('bird', 'cat', 'dog')


def write_photographs(root):
  """Writes photographs of three classes, one turned and one transparent."""
  photo_files.write_folder(root, CLASSES, train=6, val=3)
  turned = Image.Exif()
  turned[ExifTags.Base.Orientation] = 6
  (root / 'val' / 'cat' / 'turned.jpg').write_bytes(
    photo_files.encoded(photo_files.picture(7), exif=turned)
  )
  pixels = photo_files.picture(8)
  alpha = np.linspace(0, 255, pixels[..., :1].size).astype(np.uint8)
  pixels = np.concatenate([pixels, alpha.reshape(*pixels.shape[:2], 1)], -1)
  (root / 'val' / 'dog' / 'transparent.png').write_bytes(
    photo_files.encoded(pixels, 'PNG')
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns configuration, folder and card of a run with deployed files."""
  root = tmp_path_factory.mktemp('photographs')
  write_photographs(root / 'photos')
  config = photo_files.config(
    root / 'photos',
    network='resnet8',
    quantizer='bwn',
    estimator='ste',
    epochs=1,
    pretrain_epochs=0,
  )
  with pytest.MonkeyPatch.context() as patch:
    tiny.put_in(patch)
    training.train_and_evaluate(config, root / 'run')
    described = make.deploy(root / 'run', root / 'small', ('stablehlo',))
  return config, root, described


def results_of_test(config, root):
  """Returns paths of the test photographs, and their logits in the test."""
  paths = sorted((root / 'photos' / 'val').glob('*/*'))
  examples = make_pipeline(config).evaluate
  assert examples.size == len(paths) == 11
  images = examples.batch(0, len(paths))['input']
  model = model_file.load_model(workdir.model_path(root / 'run', config))
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  net = tiny.Net(len(CLASSES))
  return paths, np.asarray(net.apply(variables, images, train=False))


def test_predict_photograph_gives_probabilities_of_the_test(run):
  config, root, _ = run
  paths, logits = results_of_test(config, root)
  expected = jax.nn.softmax(logits.astype(np.float64))
  predicted = predict.predict(
    root / 'small' / 'model.stablehlo', [str(p) for p in paths], top=3
  )
  for path, row, (shown, best) in zip(paths, expected, predicted, strict=True):
    assert shown == str(path)
    names, shares = zip(*best, strict=True)
    order = np.argsort(-row)
    assert names == tuple(CLASSES[i] for i in order)
    np.testing.assert_allclose(shares, row[order], rtol=1e-4)


def test_read_photograph_equals_test_image_bit_for_bit(run):
  config, root, _ = run
  paths, _ = results_of_test(config, root)
  batches = list(make.test_examples(config).batches(4))
  assert [len(batch) for batch in batches] == [4, 4, 3]
  network = artefact.Artefact(lambda images: images, (16, 16), CLASSES, 20)
  read = [predict._read(str(path), network) for path in paths]
  np.testing.assert_array_equal(np.concatenate(batches), read)


@pytest.mark.parametrize('form', ['PNG', 'GIF'])
def test_read_small_image_puts_transparency_on_white(tmp_path, form):
  """A network of small images has no `resize`."""
  path = tmp_path / 'picture'
  image = Image.new('RGBA', (8, 8), (0, 0, 0, 0))
  image.paste((0, 0, 0, 255), (0, 0, 4, 8))
  path.write_bytes(photo_files.encoded(image, form))
  network = artefact.Artefact(lambda images: images, (8, 8), CLASSES)
  pixels = predict._read(str(path), network)
  np.testing.assert_array_equal(pixels[:, :4], 0)
  np.testing.assert_array_equal(pixels[:, 4:], 255)


def test_other_photographs_are_refused(run, tmp_path):
  """A folder of other photographs has the same configuration."""
  config, root, _ = run
  for others in ({'classes': ('ant', 'bee', 'cow')}, {'classes': CLASSES}):
    other = tmp_path / others['classes'][0]
    photo_files.write_folder(other, **others, train=6, val=3)
    moved = config.copy_and_resolve_references()
    moved.data_dir = str(other)
    with pytest.raises(
      InvalidError, match=f"data_dir='{other}' has other contents"
    ):
      training.train_and_evaluate(moved, root / 'run')
    with pytest.raises(InvalidError, match=r'data_dir=.* has other contents'):
      make.deploy(root / 'run', tmp_path / 'small', data_dir=str(other))
  shutil.copytree(root / 'photos', tmp_path / 'moved')
  moved.data_dir = str(tmp_path / 'moved')
  training.train_and_evaluate(moved, root / 'run')


def test_card_of_photographs_records_preprocessing(run):
  _, root, described = run
  assert described['images'] == [16, 16, 3]
  assert described['resize'] == 20
  assert described['pixels']['std'] == [0.229, 0.224, 0.225]
  assert described['classes'] == list(CLASSES)
  (entry,) = described['artefacts']
  assert entry['equal_predictions'] == entry['images'] == 11
  page = (root / 'small' / 'CARD.md').read_text()
  assert '(N, 16, 16, 3), RGB: the centre of an upright photograph' in page
  assert 'short side is scaled to 20 pixels' in page


def test_load_program_without_right_resize_says_so(run, tmp_path):
  _, root, described = run
  path = tmp_path / 'model.stablehlo'
  shutil.copy(root / 'small' / path.name, path)
  notices = []
  alone = loading.load(path, notify=notices.append)
  assert alone.resize is None
  assert 'its crop of photographs are unknown' in notices[0]
  card = tmp_path / loading.CARD
  card.write_text(json.dumps(sealed.seal(described | {'resize': 15})))
  with pytest.raises(InvalidError, match='resize=15 does not fit images'):
    loading.load(path)


@pytest.mark.parametrize('resize', [None, 20])
def test_load_packed_file_has_resize(tmp_path, monkeypatch, resize):
  tiny.put_in(monkeypatch)
  config = photo_files.config(tmp_path, network='resnet8')
  inputs = Inputs((16, 16, 3), (0.5,) * 3, (0.5,) * 3, CLASSES, resize)
  variables = tiny.variables(tiny.Net(3), image_shape=inputs.shape)
  metadata = packed_network.make_metadata(config, inputs)
  assert ('resize' in metadata) == (resize is not None)
  packed = mq_jax.pack(
    variables['params'],
    mq_jax.bwn(),
    model_state=variables['batch_stats'],
    metadata=metadata,
  )
  mq_jax.save_packed(tmp_path / 'packed.safetensors', packed)
  loaded = loading.load(tmp_path / 'packed.safetensors')
  assert loaded[1:] == ((16, 16), CLASSES, resize)


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ((32, 32, 3), 250),
    ((100, 100), 250),
    ((224, 224, 3), 49),
    ((2000,) * 2, 1),
  ],
)
def test_batch_size_limits_pixels(shape, size):
  assert artefact.batch_size(shape) == size
