r"""The first epochs of the authors' logs: ResNet20, in their released order.

  python -m experiments.study --study=experiments/studies/as_released.py \
    --workdir=runs/as_released --pretrained=FOLDER

`FOLDER` holds MetaQuant-ResNet20-CIFAR10.safetensors. The logs have the loss of
each epoch, which varies little between trials; `experiments.report` prints ours
beside it. The released code applies each update of a learned rule twice in the
forward pass, so the learned rules have `reapply=True` here. Their other options
follow the logs: MultiFC has three layers, LSTMFC carries no memory, γ is
constant. The released code has γ = 1e-3. A second γ shows whether the logs had
another one.
"""

from ml_collections import ConfigDict

from experiments.study import Study, in_protocol

# Rules that the authors published logs of, by quantizer and optimizer.
LOGGED = {
  ('dorefa', 'sgd'): ('ste', 'multi_fc'),
  ('dorefa', 'adam'): ('multi_fc',),
  ('bwn', 'sgd'): ('ste', 'lstm_fc', 'fc_grad'),
  ('bwn', 'adam'): ('ste', 'lstm_fc', 'fc_grad'),
}
OTHER_GAMMA = 2e-3


def with_other_gamma(config: ConfigDict) -> ConfigDict:
  """Returns a copy of a configuration with `OTHER_GAMMA`."""
  changed = config.copy_and_resolve_references()
  changed.meta_learning_rate = OTHER_GAMMA
  return changed


def get_study() -> Study:
  """Returns the nine settings whose losses per epoch were logged.

  Learned rules have a second setting, of two epochs, with `OTHER_GAMMA`.
  """
  settings = {}
  for (quantizer, optimizer), estimators in LOGGED.items():
    for estimator in estimators:
      name = f'{quantizer}-{optimizer}-{estimator}'
      learned = estimator != 'ste'
      settings[name] = in_protocol(
        'paper',
        quantizer=quantizer,
        optimizer=optimizer,
        estimator=estimator,
        reapply=learned,
        epochs=5,
      )
      if learned:
        other = with_other_gamma(settings[name])
        other.epochs = 2
        settings[f'{name}-gamma{OTHER_GAMMA:g}'] = other
  return Study(
    "The first epochs of the authors' logs",
    settings,
    trials=2,
    figures=False,
  )
