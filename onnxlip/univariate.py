"""Univariate expressions: what a subgraph that works entry by entry computes, in normal form.

Exporters write one activation in many ways: x·Sigmoid(x), 0.5·x·(1 + Erf(x/√2)),
x·Clip(x + 3, 0, 6)/6. All of them are polynomials in x and in *atoms* F(inner), where F is an
elementwise op and `inner` is again such an expression. Expanded into a sum of terms

    c · x^power · F₁(e₁) ⋯ F_k(e_k)

with exact rational coefficients, two spellings of one function become equal, and the slope
interval of the sum is the sum of the terms' intervals: a constant has 0, c·x has c, c·F(e) has
c · slopes(F) · slopes(e), and c·x·F(e) is asked of F's rule (its `gate`). For GELU,
½x + ½x·Erf(bx), that sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

__all__ = ["Atom", "Expression", "Interval", "scale_interval", "sum_intervals"]

Interval = tuple[float, float]
Term = tuple[int, tuple["Atom", ...]]

MAX_TERMS = 16  # expansions beyond this are no activation that anybody exports
_MAX_BITS = 4096  # of a coefficient: what repeated squaring makes of one is none either


@dataclass(frozen=True)
class Atom:
    """F(inner). `key` identifies F with its parameters; the callables are F's rule at work."""

    key: str
    inner: Expression
    slopes: Callable[[Interval], Interval] = field(compare=False, repr=False)
    image: Callable[[Interval], Interval] = field(compare=False, repr=False)
    gate: Callable[[Expression], Interval | None] = field(compare=False, repr=False)

    @property
    def order(self) -> str:
        """Text by which atoms are sorted and told apart."""
        return f"{self.key}({self.inner.text})"


@dataclass(frozen=True)
class Expression:
    """A sum of terms: pairs ((power of x, atoms), coefficient), in a fixed order.

    `notes` are idealisations that recognition made and that the report must tell.
    """

    terms: tuple[tuple[Term, Fraction], ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def make(cls, terms: Mapping[Term, Fraction], notes: Iterable[str] = ()) -> Expression:
        """From coefficients by term; zeros are dropped."""
        kept = ((t, c) for t, c in terms.items() if c)
        ordered = sorted(kept, key=lambda tc: (tc[0][0], [a.order for a in tc[0][1]]))
        return cls(tuple(ordered), tuple(dict.fromkeys(notes)))

    @classmethod
    def x(cls) -> Expression:
        """The variable itself."""
        return cls.make({(1, ()): Fraction(1)})

    @classmethod
    def number(cls, value: float | Fraction) -> Expression:
        """A constant, exactly."""
        return cls.make({(0, ()): Fraction(value)})

    @classmethod
    def atom(cls, atom: Atom) -> Expression:
        """F(inner) itself."""
        return cls.make({(0, (atom,)): Fraction(1)}, atom.inner.notes)

    @property
    def text(self) -> str:
        """Readable normal form; equal expressions have equal texts."""
        parts = []
        for (power, atoms), c in self.terms:
            factors = [str(c)] + ["x"] * power + [a.order for a in atoms]
            parts.append("*".join(factors))
        return " + ".join(parts) or "0"

    @property
    def moderate(self) -> bool:
        """Whether it is of a size that is worth looking at."""
        bits = (max(c.numerator.bit_length(), c.denominator.bit_length()) for _, c in self.terms)
        return len(self.terms) <= MAX_TERMS and max(bits, default=0) <= _MAX_BITS

    @property
    def constant(self) -> Fraction | None:
        """The value, if there is no x in it."""
        if not self.terms:
            return Fraction(0)
        if len(self.terms) == 1 and self.terms[0][0] == (0, ()):
            return self.terms[0][1]
        return None

    @property
    def polynomial(self) -> dict[int, Fraction] | None:
        """{power: coefficient} if there are no atoms."""
        if any(atoms for (_, atoms), _ in self.terms):
            return None
        return {power: c for (power, _), c in self.terms}

    @property
    def linear(self) -> tuple[Fraction, Fraction] | None:
        """(slope, offset) if the expression is slope·x + offset."""
        poly = self.polynomial
        if poly is None or any(power > 1 for power in poly):
            return None
        return poly.get(1, Fraction(0)), poly.get(0, Fraction(0))

    @property
    def single_atom(self) -> Atom | None:
        """F(e) if the expression is exactly that."""
        if len(self.terms) == 1 and self.terms[0][1] == 1:
            power, atoms = self.terms[0][0]
            if power == 0 and len(atoms) == 1:
                return atoms[0]
        return None

    def __add__(self, other: Expression) -> Expression:
        terms = dict(self.terms)
        for t, c in other.terms:
            terms[t] = terms.get(t, Fraction(0)) + c
        return Expression.make(terms, self.notes + other.notes)

    def __neg__(self) -> Expression:
        return self * Expression.number(-1)

    def __sub__(self, other: Expression) -> Expression:
        return self + (-other)

    def __mul__(self, other: Expression) -> Expression:
        terms: dict[Term, Fraction] = {}
        for (p, a), c in self.terms:
            for (q, b), d in other.terms:
                key = (p + q, tuple(sorted(a + b, key=lambda atom: atom.order)))
                terms[key] = terms.get(key, Fraction(0)) + c * d
        return Expression.make(terms, self.notes + other.notes)

    def reciprocal(self) -> Expression | None:
        """1/c for a nonzero constant, else None."""
        c = self.constant
        return Expression.number(1 / c) if c else None

    def with_note(self, note: str) -> Expression:
        """The same function, with one more idealisation to tell."""
        return Expression(self.terms, (*self.notes, note))

    # ── what the engine asks ──────────────────────────────────────────────────────────────

    def image(self) -> Interval:
        """An interval that holds all values over x ∈ ℝ."""
        parts = []
        for (power, atoms), c in self.terms:
            if power == 0 and len(atoms) <= 1:
                inside = atoms[0].image(atoms[0].inner.image()) if atoms else (1.0, 1.0)
                parts.append(scale_interval(c, inside))
            else:
                return (-math.inf, math.inf)
        return sum_intervals(parts)

    def slopes(self) -> Interval | None:
        """An interval that holds every difference quotient over ℝ, or None if none is known."""
        parts = []
        for (power, atoms), c in self.terms:
            part: Interval | None
            if not atoms and power == 0:
                continue
            if not atoms and power == 1:
                part = (1.0, 1.0)
            elif power == 0 and len(atoms) == 1:
                part = _atom_slopes(atoms[0])
            elif power == 1 and len(atoms) == 1:
                part = atoms[0].gate(atoms[0].inner)
            else:
                return None
            if part is None or not (math.isfinite(part[0]) and math.isfinite(part[1])):
                return None
            parts.append(scale_interval(c, part))
        return sum_intervals(parts)


def _atom_slopes(atom: Atom) -> Interval | None:
    inner = atom.inner.slopes()
    if inner is None:
        return None
    outer = atom.slopes(atom.inner.image())
    if not all(map(math.isfinite, outer)):
        return None
    products = [Fraction(a) * Fraction(b) for a in outer for b in inner]
    return _rounded(min(products), max(products))


def _rounded(low: Fraction, high: Fraction) -> Interval:
    """The interval in float64, rounded outward where it is rounded at all."""
    try:
        a, b = float(low), float(high)
    except OverflowError:  # beyond the largest float64
        return -math.inf, math.inf
    return (
        a if Fraction(a) <= low else math.nextafter(a, -math.inf),
        b if Fraction(b) >= high else math.nextafter(b, math.inf),
    )


def scale_interval(c: Fraction, part: Interval) -> Interval:
    """c · part, rounded outward (exactly where nothing is rounded)."""
    if math.isinf(part[0]) or math.isinf(part[1]):
        return (-math.inf, math.inf) if c else (0.0, 0.0)
    low, high = sorted((c * Fraction(part[0]), c * Fraction(part[1])))
    return _rounded(low, high)


def sum_intervals(parts: Iterable[Interval]) -> Interval:
    """Σ of intervals, rounded outward (exactly where nothing is rounded)."""
    listed = list(parts)
    if any(math.isinf(v) for part in listed for v in part):
        return (-math.inf, math.inf)
    return _rounded(
        sum((Fraction(a) for a, _ in listed), Fraction(0)),
        sum((Fraction(b) for _, b in listed), Fraction(0)),
    )
