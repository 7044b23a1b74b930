"""The networks of the demonstration and the recipes, by the path the command line takes."""

from analogize.demo.models import (
    BasicBlock,
    CaffeLeNet,
    CifarResNet,
    CifarResNetV2,
    DigitsNet,
    LeNet5,
    PreActivationBlock,
    cifar_resnet18_v2,
    cifar_resnet32,
)

__all__ = [
    "BasicBlock",
    "CaffeLeNet",
    "CifarResNet",
    "CifarResNetV2",
    "DigitsNet",
    "LeNet5",
    "PreActivationBlock",
    "cifar_resnet18_v2",
    "cifar_resnet32",
]
