"""Ops whose output takes isolated values: integers, booleans, signs, positions, one-hot vectors.

Such a function is constant on pieces and jumps between them: at a jump the quotient
|f(x) − f(y)| / |x − y| has no bound, so there is no finite Lipschitz constant, on any domain that
contains a jump. Mod has slopes besides, but jumps at the multiples of the divisor.

Comparisons by order (Greater, Less, …) have files of their own: functions that they are part of
can be continuous.

Source: ONNX operator specification.
"""

from onnxlip.rules import Refusal, Rule

_CUT = "cut the network before it (--output)"

_WHAT = {
    "ArgMax": "the position of the largest entry",
    "ArgMin": "the position of the smallest entry",
    "Hardmax": "a one-hot vector",
    "OneHot": "one-hot vectors",
    "NonZero": "positions, in a number that depends on the input",
    "NonMaxSuppression": "the positions of the boxes that are kept",
    "Unique": "as many distinct entries as there are, and positions",
    "Sign": "−1, 0 or 1",
    "Round": "whole numbers",
    "Floor": "whole numbers",
    "Ceil": "whole numbers",
    "Equal": "true or false",
    "Not": "true or false",
    "And": "true or false",
    "Or": "true or false",
    "Xor": "true or false",
    "IsNaN": "true or false",
    "IsInf": "true or false",
    "BitwiseAnd": "integers",
    "BitwiseNot": "integers",
    "BitwiseOr": "integers",
    "BitwiseXor": "integers",
    "BitShift": "integers",
}

_SMOOTH = {
    "ArgMax": "; usually the scores that it takes are the output to analyse",
    "ArgMin": "; usually the scores that it takes are the output to analyse",
    "Hardmax": ", or use Softmax",
    "Sign": ", or use Tanh or Softsign",
}

_QUANTIZED = Refusal(
    "it rounds to a grid, so it is piecewise constant: not continuous, so no finite Lipschitz "
    "constant; analyse the network before quantisation"
)


def _refused(op_type: str, what: str) -> Rule:
    reason = (
        f"it returns {what}, so it is piecewise constant: not continuous, so no finite Lipschitz "
        f"constant; {_CUT}{_SMOOTH.get(op_type, '')}"
    )
    return Rule(op_type, Refusal(reason), source=f"ONNX {op_type}")


RULES = (
    *(_refused(op_type, what) for op_type, what in _WHAT.items()),
    Rule("QuantizeLinear", _QUANTIZED, source="ONNX QuantizeLinear"),
    Rule("DynamicQuantizeLinear", _QUANTIZED, source="ONNX DynamicQuantizeLinear"),
    Rule(
        "Mod",
        Refusal(
            "it jumps wherever its first input crosses a multiple of the second: not continuous, "
            f"so no finite Lipschitz constant; {_CUT}"
        ),
        source="ONNX Mod",
    ),
)
