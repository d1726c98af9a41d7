"""Normalizer (ai.onnx.ml): x / ‖x‖, with the maximum, the 1-norm or the 2-norm.

The quotient is homogeneous of degree 0: near x = 0 it takes every one of its values in every
neighbourhood, so its gain there is unbounded.

Source: ONNX-ML operator specification, Normalizer.
"""

from onnxlip.rules import Refusal, Rule

RULES = (
    Rule(
        "Normalizer",
        Refusal(
            "it divides by the norm of its input without an ε, so its slope is unbounded near 0; "
            "use a normalisation with an ε, or analyse the network behind it (--input)"
        ),
        source="ONNX-ML Normalizer",
        domain="ai.onnx.ml",
    ),
)
