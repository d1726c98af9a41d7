"""Ops that draw random numbers: their output is no function of the network's input.

Source: ONNX operator specification.
"""

from onnxlip.rules import Refusal, Rule

_OPS = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)

RULES = tuple(
    Rule(
        op_type,
        Refusal(
            "it draws random numbers, so the network is no function of its input and has no "
            "Lipschitz constant; export it for inference, or make the noise an input of its own"
        ),
        source=f"ONNX {op_type}",
    )
    for op_type in _OPS
)
