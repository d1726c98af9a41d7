"""Products of coefficients with factors, and by how much they were rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["scaled"]


def scaled(
    values: npt.NDArray[np.floating], factors: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], float] | None:
    """values · factors and the `ulps` of that rounding, or None where there is no such figure.

    A product that is rounded in the normal range errs by at most 2⁻⁵³ of itself: 1. Powers of two
    (±1 above all) round nothing and keep the type of `values`; products of two float32 numbers
    are exact in float64. Where a product underflows, overflows or is no number, nothing relative
    can be said: two maps then stay two.
    """
    if not np.all(np.isfinite(factors)):
        return None
    with np.errstate(over="ignore", under="ignore"):
        short = factors.astype(np.float32)
    is_short = bool(np.array_equal(short, factors))
    exact = bool(np.all(np.isin(np.abs(np.frexp(factors)[0]), (0.0, 0.5))))
    if exact and is_short and values.dtype == np.float32:
        product = _product(values, short)
        if product is not None:
            return product, 0.0
    exact = exact or (is_short and values.dtype == np.float32)
    product = _product(values, factors)
    return None if product is None else (product, 0.0 if exact else 1.0)


def _product(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    try:
        # Underflow is raised where a result is both below the normal range and inexact.
        with np.errstate(over="raise", under="raise", invalid="raise"):
            product: npt.NDArray[Any] = a * b
            return product
    except FloatingPointError:
        return None
