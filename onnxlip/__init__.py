"""onnxlip: certified Lipschitz bounds of ONNX networks.

    import onnxlip
    report = onnxlip.analyze("model.onnx")
    report.upper.value        # ‖f(x) − f(y)‖ ≤ value · ‖x − y‖ for all x, y: a theorem

Names are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxlip.analysis import Analysis, analyze
    from onnxlip.errors import (
        ModelError,
        NotLipschitzError,
        OnnxlipError,
        RuleError,
        ShapeError,
        UnsupportedError,
        UsageError,
    )
    from onnxlip.report import Report

__version__ = "0.1.0"

_HOME = {
    "Analysis": "analysis",
    "ModelError": "errors",
    "NotLipschitzError": "errors",
    "OnnxlipError": "errors",
    "Report": "report",
    "RuleError": "errors",
    "ShapeError": "errors",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "analyze": "analysis",
}

__all__ = [
    "Analysis",
    "ModelError",
    "NotLipschitzError",
    "OnnxlipError",
    "Report",
    "RuleError",
    "ShapeError",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "analyze",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxlip' has no attribute '{name}'")
    return getattr(import_module(f"onnxlip.{_HOME[name]}"), name)
