"""The paper's reference networks, as plain modules that torch.fx traces whole.

Every product with stored weights is an ``nn.Conv2d`` or ``nn.Linear``, and no ``forward`` branches
on values, so all of them rewrite without a fallback.

    LeNet5              28x28 digits     61,706 parameters    the paper's Fig. 2 and Fig. 5
    CaffeLeNet          28x28 digits    431,080 parameters    the wide network of the same name
    DigitsNet           8x8 digits       38,282 parameters    the demo's network
    cifar_resnet32      32x32 images    464,154 parameters    the paper's Fig. 3
    cifar_resnet18_v2   32x32 images 11,172,170 parameters    the paper's Fig. 4
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 with ReLU for 28x28 images: 61,706 parameters with ten classes.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), in the
    usual modern form: padding instead of 32x32 inputs, ReLU (the paper, section 4), maximum
    pooling, a fully connected second convolution and a linear output layer.

    Args:
        num_classes: Number of scores.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28) to scores (N, num_classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (N, 6, 14, 14)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (N, 16, 5, 5)
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        scores: Tensor = self.fc3(x)
        return scores


class CaffeLeNet(nn.Module):
    """The wide LeNet that Caffe ships: 431,080 parameters with ten classes.

    Source: Caffe, ``examples/mnist/lenet_train_test.prototxt``: 20 and 50 channels without padding,
    each followed by maximum pooling and no other activation, 500 hidden units with ReLU; Glorot's
    uniform initialisation scaled by the fan-in alone ("xavier" in Caffe), biases of zero.

    Args:
        num_classes: Number of scores.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:  # uniform within sqrt(3 / fan_in), that is a variance of 1 / fan_in
                nn.init.kaiming_uniform_(parameter, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 28, 28) to scores (N, num_classes)."""
        x = F.max_pool2d(self.conv1(x), 2)  # (N, 20, 12, 12)
        x = F.max_pool2d(self.conv2(x), 2)  # (N, 50, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))
        scores: Tensor = self.fc2(x)
        return scores


class DigitsNet(nn.Module):
    """A small convolutional network for 8x8 digits: 38,282 parameters with ten classes.

    It is the demo's network: two convolutions at full resolution, one pooling, two linear layers.

    Args:
        num_classes: Number of scores.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 8, 8) to scores (N, num_classes)."""
        x = F.relu(self.conv1(x))  # (N, 16, 8, 8)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (N, 32, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))
        scores: Tensor = self.fc2(x)
        return scores


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (He et al. 2015, option A).

    Args:
        inputs: Input channels.
        outputs: Output channels; at least ``inputs``.
        stride: Stride of the first convolution and of the shortcut's subsampling.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        # The block's structure decides here, never a value: tracing takes one branch for good.
        if self.stride == 1 and self.extra_channels == 0:
            return x
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, 0, self.extra_channels))


class CifarResNet(nn.Module):
    """The CIFAR family of He et al. 2015, section 4.2: depth 6n + 2 on 16, 32 and 64 channels.

    Source: He et al., "Deep residual learning for image recognition" (2015), with its option-A
    shortcuts (subsampling and zero channels, no weights), which that paper uses on CIFAR.

    Args:
        blocks: Blocks a stage, the paper's n.
        num_classes: Number of scores.
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, stride=1)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, stride=2)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to scores (N, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, 8, 8)
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each 3x3 convolution (He et al. 2016, Fig. 1b).

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Stride of the first convolution and of the projection.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.projection: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        # A block that changes shape projects the activated input, as He et al.'s own code does.
        shortcut: Tensor = x if self.projection is None else self.projection(active)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + shortcut


class CifarResNetV2(nn.Module):
    """A pre-activation ResNet for CIFAR on 64, 128, 256 and 512 channels, or on others.

    Source: He et al., "Identity mappings in deep residual networks" (2016): the ImageNet layout
    with a 3x3 stem of stride 1 and no pooling, and the closing BatchNorm and ReLU.

    Args:
        blocks: Blocks a stage, four numbers.
        num_classes: Number of scores.
        width: Channels of the first stage; every further stage has twice those before it.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], num_classes: int = 10, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.layer1 = _stage(PreActivationBlock, width, width, blocks[0], stride=1)
        self.layer2 = _stage(PreActivationBlock, width, 2 * width, blocks[1], stride=2)
        self.layer3 = _stage(PreActivationBlock, 2 * width, 4 * width, blocks[2], stride=2)
        self.layer4 = _stage(PreActivationBlock, 4 * width, 8 * width, blocks[3], stride=2)
        self.bn = nn.BatchNorm2d(8 * width)
        self.fc = nn.Linear(8 * width, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to scores (N, num_classes)."""
        x = self.layer2(self.layer1(self.conv1(x)))  # (N, 2 width, 16, 16)
        x = F.relu(self.bn(self.layer4(self.layer3(x))))  # (N, 8 width, 4, 4)
        scores: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


def cifar_resnet32(num_classes: int = 10) -> CifarResNet:
    """ResNet-32 (v1) for CIFAR: 464,154 parameters, the paper's Fig. 3.

    Args:
        num_classes: Number of scores.

    Returns:
        A freshly initialised network for images (N, 3, 32, 32).
    """
    return CifarResNet(5, num_classes)


def cifar_resnet18_v2(num_classes: int = 10, width: int = 64) -> CifarResNetV2:
    """ResNet-18 (v2, pre-activation) for CIFAR: 11,172,170 parameters, the paper's Fig. 4.

    Args:
        num_classes: Number of scores.
        width: Channels of the first stage, 64 in the paper; 32 leave a quarter of the work.

    Returns:
        A freshly initialised network for images (N, 3, 32, 32).
    """
    return CifarResNetV2((2, 2, 2, 2), num_classes, width)


def _stage(
    block: type[BasicBlock] | type[PreActivationBlock],
    inputs: int,
    outputs: int,
    count: int,
    stride: int,
) -> nn.Sequential:
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))


def _initialise(model: nn.Module) -> None:
    """He initialisation of the convolutions (He et al., "Delving deep into rectifiers", 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
