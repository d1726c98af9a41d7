"""Einsum with one variable operand: a contraction with constants, see `families.contraction`.

Source: ONNX operator specification, Einsum.
"""

from collections import Counter

from onnxlip.linear import LinearMap
from onnxlip.ops.families.coefficients import coefficients
from onnxlip.ops.families.contraction import Label, contraction
from onnxlip.rules import Affine, Node, Refusal, Rule, constant, example, variable


def _terms(node: Node) -> tuple[list[list[Label]], list[Label]]:
    """The labels of each operand and of the output; an ellipsis stands for labels that are
    counted from the right."""
    equation = node.attribute("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands: list[list[Label]] = []
    widest = 0
    for k, term in enumerate(left.split(",")):
        before, dots, after = term.partition("...")
        hidden = len(node.value(k).shape) - len(before) - len(after) if dots else 0
        widest = max(widest, hidden)
        operands.append([*before, *range(hidden, 0, -1), *after])
    ellipsis: list[Label] = [*range(widest, 0, -1)]
    if arrow:
        before, dots, after = right.partition("...")
        return operands, [*before, *(ellipsis if dots else ()), *after]
    # Implicit output: the ellipsis, then all letters that occur once, in alphabetical order.
    counts = Counter(left.replace(".", "").replace(",", ""))
    return operands, [*ellipsis, *sorted(letter for letter, n in counts.items() if n == 1)]


def _linear(node: Node, i: int, o: int) -> LinearMap:
    operands, out = _terms(node)
    constants = [(coefficients(node, k), term) for k, term in enumerate(operands) if k != i]
    return contraction(node.value(i).shape, operands[i], constants, out)


RULES = (
    Rule(
        "Einsum",
        Refusal(
            "it multiplies tensors that all depend on the input, so its gain grows without "
            "bound; freeze all but one of them, or write it as MatMul and bound the input"
        ),
        source="ONNX Einsum",
        since=12,
    ),
    Rule(
        "Einsum",
        Affine(_linear),
        source="ONNX Einsum",
        since=12,
        examples=(
            example(variable(2, 3), equation="ij->ji"),
            example(variable(2, 3), equation="ij->"),
            example(variable(3, 3, 2), equation="iij->j"),
            example(variable(3, 3), equation="ii->i"),
            example(variable(2, 3), equation="ba"),
            example(variable(2, 3), constant(shape=(3, 4)), equation="ij,jk"),
            example(variable(2, 3, 2, 2), equation="b...i->...i"),
            example(variable(2, 3, 4), constant(shape=(4, 5)), equation="bij,jk->bik"),
            example(constant(shape=(5, 3)), variable(2, 3, 4), equation="ki,bij->bkj"),
            example(variable(2, 3, 4), constant(shape=(3, 4, 2)), equation="bhd,hdk->bhk"),
            example(variable(2, 3), constant(shape=(2, 3)), equation="ij,ij->ij"),
            example(variable(2, 3), constant(shape=(3,)), equation="ij,j->ji"),
            example(variable(2, 3), constant(shape=(4,)), equation="ij,k->kji"),
            example(variable(2, 3), constant(shape=(3, 4, 2)), equation="ij,jkl->il"),
            example(variable(2, 4, 3), constant(shape=(2, 3, 5)), equation="...ij,...jk->...ik"),
            example(variable(4, 3), constant(shape=(2, 1, 3, 5)), equation="...ij,...jk->...ik"),
            example(constant(shape=(3, 2)), variable(2, 4, 3), equation="ab,b...a->...b"),
            example(
                variable(2, 3),
                constant(shape=(3, 4)),
                constant(shape=(4, 2)),
                equation="ij,jk,kl->il",
            ),
            example(
                constant(shape=(3,)),
                variable(2, 3),
                constant(shape=(2, 3)),
                equation="j,ij,ij->i",
            ),
            example(variable(2, 3), constant(shape=(3, 3)), equation="i j , jj -> i"),
        ),
        applies=lambda node: len(node.variables) == 1,
    ),
)
