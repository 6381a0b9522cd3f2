"""ResNet20 on CIFAR-10 at 1 bit: the protocol of MetaQuant's Table 1.

  python -m experiments.cifar --config=experiments/configs/resnet20.py \
    --config.pretrained=MetaQuant-ResNet20-CIFAR10.safetensors

Any value is overridden on the command line, such as `--config.quantizer=bwn
--config.estimator=lstm_fc --config.optimizer=adam --config.seed=3`. Without
`pretrained` a full-precision base model is trained first, `pretrain_epochs`
long.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  """The configuration; every key that a run may have is listed here."""
  config = ConfigDict()
  # resnet20, 32, 44, 56 or 110; resnet8 to try things out; vgg_small, labnet
  config.network = 'resnet20'
  config.head_norm = False  # a batch norm after the last layer
  # relu, sign, bi_real, dorefa, hwgq, pact, lsq: what a convolution gets
  config.activation_quantizer = 'relu'
  config.activation_bits = 2  # dorefa, pact, lsq: 1 to 8; hwgq: 1 to 4
  config.dataset = 'cifar10'  # cifar10, cifar100, digits
  config.data_dir = ''  # default: $TFDS_DATA_DIR, then ~/tensorflow_datasets
  config.pretrained = ''  # model file, or one of the authors' .pth files
  config.pretrain_epochs = 164  # 0: from random weights
  config.holdout = 0  # training images to test on, in place of the test set
  config.dtype = 'float32'  # of the computation; parameters stay float32
  config.seed = 0
  config.trials = 1  # runs at once, with the seeds seed, seed + 1, …
  config.mesh_data = 1  # devices that each batch is split over; -1 for all

  # dorefa, bwn, none, or another method of experiments/build/methods.py
  config.quantizer = 'dorefa'
  config.bits = 1  # dorefa: 1 to 8
  config.method = ConfigDict()  # what only one method reads: see methods.py
  config.recalibrate = 0  # batches that batch statistics are taken anew from
  config.per_channel = False  # bwn, aciq
  config.clip = 1.0  # of the straight-through rule; 0 for none
  config.scaled_gradient = True  # bwn: the straight-through rule's factor
  config.float_layers = ''  # regular expression: leaves left unquantized

  # ste, fc_grad, multi_fc, lstm_fc, kernel_wise, feature_fc
  config.estimator = 'multi_fc'
  config.hidden = 100
  config.layers = 2  # fc_grad, multi_fc
  config.estimator_activation = config_dict.placeholder(str)  # None, relu, tanh
  config.init = 'random'  # random, identity
  config.carry = True  # lstm_fc: keep the memory from step to step
  config.memory_dtype = 'float32'  # lstm_fc: of the memory; or bfloat16
  config.features = 'gradient momentum distance progress'  # feature_fc
  config.progress_epochs = 100  # feature_fc: when 'progress' comes to 1
  config.per_layer = False  # a φ for each layer
  config.slim = False  # one layer a step, drawn at random, trains φ
  config.phi_cotangent = 'ste'  # ste, estimator
  config.differentiate_refinement = False

  config.optimizer = 'sgd'  # sgd, momentum, adam, adamw, rmsprop, lion
  config.eps_root = 0.0  # adam, adamw
  config.weight_decay = 0.0  # on every parameter; adamw, lion: decoupled
  config.reapply = False  # as released: each move is seen twice, kept once
  config.learning_rate = 1e-3  # alpha
  config.meta_learning_rate = 1e-3  # gamma
  config.decay_every = 30  # epochs after which alpha falls; 0: never
  config.decay_at = ''  # or the epochs at which it does, such as '82 123'
  config.decay_factor = 0.1  # what it is multiplied by
  config.meta_optimizer = 'adam'  # adam, sgd
  config.meta_decay_every = 30  # of gamma, which is divided by 10
  config.meta_every = 1  # steps from one update of φ to the next
  config.meta_stop = 0  # epochs after which φ stands still; 0: never
  config.loss = 'cross_entropy'  # squared_hinge
  config.augment = True  # crop and mirror the images
  config.batch_size = 128
  config.epochs = 100  # 0: only quantize, after training
  config.epoch_steps = 0  # batches an epoch at most; 0: all there are

  config.chunk = 10  # steps run at a time without a look from the host
  config.checkpoint_every = 100  # steps; the end of an epoch always
  return config
