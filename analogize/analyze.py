"""Understand a noisy network, and choose what to keep digital.

bias_variance       variance and bias of the squared loss (the paper, section 4.1)
mutual_information  what the output still tells about the input (section 4.2)
sensitivity         what each region's noise costs alone
assign              the least work to keep digital within an accuracy budget
compare             two models on the same chips, with a test of the difference
"""

from analogize.analysis.assignment import Assignment, assign
from analogize.analysis.decomposition import Decomposition, DecompositionRow, bias_variance
from analogize.analysis.information import Information, InformationRow, mutual_information
from analogize.analysis.ranking import RegionCost, Sensitivity, sensitivity
from analogize.analysis.training_levels import Mismatch, mismatch
from analogize.evaluation.estimate import Estimate
from analogize.evaluation.pairing import Comparison, Difference, compare

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
