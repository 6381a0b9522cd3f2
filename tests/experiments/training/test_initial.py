"""Tests that a base model belongs to the network of the run."""

import numpy as np
import pytest

from experiments.common import errors
from experiments.records import model_file
from experiments.training import initial
from tests.experiments import tiny


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    (
      {'padding': 'same'},
      'config.padding=same, but .* config.padding=torch: set',
    ),
    ({'width': '0.5'}, 'config.width=0.5, but .*: set --config.width=0.5'),
    ({'head_norm': 'True'}, 'config.head_norm=True, but'),
  ],
)
def test_initial_variables_other_options_raise(tmp_path, options, match):
  path = tmp_path / 'net.safetensors'
  weights = {'head': {'bias': np.zeros(10, np.float32)}}
  model_file.save_model(
    path, weights, {}, {'network': 'mobilenet_v2'} | options
  )
  config = tiny.config(network='mobilenet_v2')
  net = tiny.Net(10)
  with pytest.raises(errors.InvalidError, match=match):
    initial.initial_variables(config, net, (32, 32, 3), str(path))
  # Equal options are accepted; here the arrays then do not fit.
  equal = {'padding': 'torch', 'width': '1.0'}
  model_file.save_model(path, weights, {}, {'network': 'mobilenet_v2'} | equal)
  with pytest.raises(
    errors.InvalidError, match='the shape of head/kernel is ab'
  ):
    initial.initial_variables(config, net, (32, 32, 3), str(path))
