"""Understand a noisy network, and choose what to keep digital.

bias_variance       variance and bias of the squared loss (the paper, section 4.1)
mutual_information  what the output still tells about the input (section 4.2)
sensitivity         what each region's noise costs alone
assign              the least work to keep digital within an accuracy budget
compare             two models on the same chips, with a test of the difference
"""

from analogize.assignment import Assignment, assign
from analogize.decomposition import Decomposition, DecompositionRow, bias_variance
from analogize.estimate import Estimate
from analogize.information import Information, InformationRow, mutual_information
from analogize.pairing import Comparison, Difference, compare
from analogize.ranking import RegionCost, Sensitivity, sensitivity
from analogize.training_levels import Mismatch, mismatch

__all__ = [
    "Assignment",
    "Comparison",
    "Decomposition",
    "DecompositionRow",
    "Difference",
    "Estimate",
    "Information",
    "InformationRow",
    "Mismatch",
    "RegionCost",
    "Sensitivity",
    "assign",
    "bias_variance",
    "compare",
    "mismatch",
    "mutual_information",
    "sensitivity",
]
