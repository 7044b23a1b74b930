"""What other tools leave of a file: run each, count the regions found, compare the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import onnxscript.optimizer
import pytest
import torch
from onnx import version_converter

from analogize import analogize, load_onnx, regions
from analogize.errors import ExportError
from analogize.export import export_onnx
from analogize.models import DigitsNet
from analogize.onnx.read import read_regions
from tests.onnx.networks import Transformer
