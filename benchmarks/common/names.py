"""Values of options: only the names, so that --help imports nothing that takes time.

Tests compare them with what they name. training/, methods/, accuracy/ and iteration/ are in research/.
"""

NETS = ("small", "paper")  # common/nets.py
TRAINABLE = (*NETS, "cifar10", "vgg")
NORMALISED = ("paper", "cifar10", "vgg")  # behind their convolutions
PRECISIONS = ("float32", "int16", "int8")  # common/accuracy.py
DATA = ("fashion-mnist", "cifar10", "folder")  # common/datasets.py
METHODS = ("ann", "proxy", "tandem", "surrogate")  # training/methods.py
POOLS = ("spikes", "rates")  # common/nets.py
STATISTICS = ("steps", "means")  # pk.ProxyNet
LOSSES = ("mse-count", "mse-rate", "cross-entropy")
AUGMENTATIONS = (
    "none",
    "mirror",
    "shift-mirror",
    "shift-mirror-erase",
    "crop-mirror-erase",
    "authors",
)  # training/augment.py
SCHEDULES = ("constant", "cosine", "one-cycle", "trapezoid")  # training/step.py
RIVALS = ("plain", "compiled", "spikingjelly-s", "spikingjelly-m", "snntorch", "norse", "sinabs")  # speed/rivals.py
GPU_RIVALS = (
    "layers-fp16",
    "layers-graph-fp32",
    "layers-graph-tf32",
    "layers-graph-fp16",
    "layers-graph-bf16",
)  # gpu/rivals.py
IMAGENET_MODEL = "efficientnet-lite0"
IMAGENET_STEPS = (16, 32, 64, 128, 256, 512, 1024)  # each twice the one before
ZOO_STEPS = (64, 1024)  # of supported_models.py
EVENT_METHODS = ("surrogate", "surrogate, each movement", "proxy", "relu", "relu, first movement")  # training/events.py
WAYS = (  # of compare_methods.py: methods/ways.py
    "conversion", "qcfs", "the authors' recipe", "the authors' recipe with statistics of each step", "proxy",
    "proxy, outputs unbounded", "proxy, statistics of steps", "proxy, spikes pooled", "tandem",
    "ReLU network, then proxy", "bptt", "tet",
)  # fmt: skip
# iteration/surrogate_models.py
SURROGATE_CONTENDERS = ("proxykernels", "SpikingJelly", "SpikingJelly, memopt", "snnTorch")
RELU_NETS = (  # common/relu_networks.py
    "lenet5", "small-relu", "small-half", "small-quarter", "resnet20", "resnet20-cifar10", "vgg11-cifar10",
)  # fmt: skip
SUBJECTS = (*NETS, *RELU_NETS, "lite0")  # common/subjects.py
VIDEO_NETS = ("resnet20-cifar10", "vgg11-cifar10", "lite0")  # of video.py: those that take colours
EVENT_SIZES = ("128x128", "260x346", "720x1280")  # of event_speed.py: speed/event_table.py
RECURRENT_LIBRARIES = ("proxykernels", "snntorch", "spikingjelly")  # training/sequences.py
