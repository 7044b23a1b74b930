"""Understand a noisy network, and choose what to keep digital.

bias_variance       variance and bias of the squared loss (the paper, section 4.1)
mutual_information  what the output still tells about the input (section 4.2)
"""

from analogize.decomposition import Decomposition, DecompositionRow, bias_variance
from analogize.estimate import Estimate
from analogize.information import Information, InformationRow, mutual_information

__all__ = [
    "Decomposition",
    "DecompositionRow",
    "Estimate",
    "Information",
    "InformationRow",
    "bias_variance",
    "mutual_information",
]
