r"""Deep networks with a linear head: layers of any kind give features H, and scores are :math:`F = H W`.

The architectures are torchvision's, for images of any number of channels and of few pixels. Their heads have no bias,
as in (3). A linear layer without bias and without activation may stand before the head: then the last two layers are
linear, as in a mean-field network, and their balancedness is defined.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nc_sweeps.counters import Stream, normals
from nc_sweeps.errors import ConfigError


class DeepNetwork(nn.Module):
    """A backbone, at most one linear layer, and a linear head.

    Args:
        backbone: takes a batch of samples to rows (b, width).
        width: number of outputs of the backbone.
        shape: shape of a sample.
        features: p of the linear layer; None: there is none, and p = width.
        classes: q.
    """

    def __init__(
        self, backbone: nn.Module, width: int, shape: Sequence[int], features: int | None, classes: int
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.backbone = backbone
        self.linear = None if features is None else nn.Linear(width, features, bias=False)
        self.head = nn.Linear(features or width, classes, bias=False)

    def features(self, X: Float[Tensor, "b d"]) -> Float[Tensor, "b p"]:
        """Return the features H of samples given as rows."""
        Z: Tensor = self.backbone(X.view(-1, *self.shape))
        return Z if self.linear is None else self.linear(Z)

    def forward(self, X: Float[Tensor, "b d"]) -> Float[Tensor, "b q"]:
        """Return the scores F."""
        F: Tensor = self.head(self.features(X))
        return F


def build_deep_network(
    name: str, shape: Sequence[int], classes: int, features: int | None = None, hidden: Sequence[int] = ()
) -> DeepNetwork:
    """Build a network whose parameters have no values yet, on the device ``meta``.

    Args:
        name: ``mlp``, ``resnet18`` or ``vgg11``.
        shape: shape of a sample; of an image (channels, height, width).
        classes: q.
        features: p of a linear layer before the head; None: there is none.
        hidden: widths of the hidden layers of ``mlp``, at least one; the other networks have widths of their own.

    Raises:
        ConfigError: the network takes images and the samples are no images.
    """
    with torch.device("meta"):
        if name == "mlp":
            backbone, width = _build_mlp(math.prod(shape), hidden), hidden[-1]
        elif len(shape) == 3:
            backbone, width = _IMAGE_BACKBONES[name](shape[0]), 512
        else:
            raise ConfigError(f"model.name={name}: is for images, and samples have {shape[0]} numbers; take mlp")
        return DeepNetwork(backbone, width, shape, features, classes)


def _build_mlp(dimension: int, hidden: Sequence[int]) -> nn.Module:
    """Build linear layers, each followed by ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip([dimension, *hidden], hidden, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _build_resnet18(channels: int) -> nn.Module:
    """Build ResNet-18 (He, Zhang, Ren, Sun 2016) as usual for small images: with a 3×3 stem of stride 1 instead of the
    7×7 stem of stride 2, and without the max-pooling after it.
    """
    from torchvision.models import resnet18

    network: nn.Module = resnet18()
    network.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


def _build_vgg11(channels: int) -> nn.Module:
    """Build VGG-11 (Simonyan, Zisserman 2015) with BatchNorm for small images.

    Max-pooling rounds odd sizes up, so that images of less than 32 pixels pass all convolutions; the mean over what is
    left of the image replaces two layers of 4096.
    """
    from torchvision.models import vgg11_bn

    layers: nn.Module = vgg11_bn().features
    layers[0] = nn.Conv2d(channels, 64, kernel_size=3, padding=1)  # type: ignore[operator]
    for layer in layers.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


_IMAGE_BACKBONES: dict[str, Callable[[int], nn.Module]] = {"resnet18": _build_resnet18, "vgg11": _build_vgg11}


#: Standard deviation of the initial last linear layers. With an output z of the backbone and a head of singular value
#: σ, the square loss has curvature ‖z‖²σ² in the layer before the head: larger weights need smaller steps, and with
#: smaller ones the network stays long at the saddle where the scores of all samples are equal.
_LAST_SCALE = 0.05


@torch.no_grad()
def initialise(network: DeepNetwork, seed: int, dtype: torch.dtype) -> DeepNetwork:
    r"""Return a network in its initial state, a function of the seed alone.

    Let m be the number of inputs of an output. Weights are :math:`\mathcal N(0, 2/m)` in the backbone, where a ReLU
    follows (He, Zhang, Ren, Sun 2015), and :math:`\mathcal N(0, 0.05^2)` in the linear layers after it. Biases are 0,
    and BatchNorm is the identity.

    Args:
        network: network on the device ``meta``.
        seed: seed of the run.
        dtype: floating-point type of the state. Numbers are drawn in float64 and rounded once.
    """
    network = network.to(dtype).to_empty(device="cpu")
    key = torch.tensor([seed], dtype=torch.int64)
    for number, (name, layer) in enumerate(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            outputs, inputs = len(layer.weight), layer.weight[0].numel()
            Z = normals(key, Stream.NETWORK, number, torch.arange(outputs), inputs, torch.float64)[0]
            scale = math.sqrt(2 / inputs) if name.startswith("backbone.") else _LAST_SCALE
            layer.weight.copy_(Z.mul_(scale).view_as(layer.weight))
            if layer.bias is not None:
                layer.bias.zero_()
    return network
