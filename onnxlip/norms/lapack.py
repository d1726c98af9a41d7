"""scipy's BLAS and LAPACK in place and without the interpreter's lock.

The functions of `scipy.linalg.blas` and `scipy.linalg.lapack` keep that lock while they compute, so
that a second thread waits for a Cholesky factorisation of seconds. The same routines are offered
to Cython by address; called through ctypes they let other threads go on. Where those addresses
are not what they are expected to be, scipy's functions serve.

Matrices are those of Fortran's order, of which one triangle is read and written: the upper one,
where nothing else is said.
Their rows must be next to each other (strides[0] = itemsize), columns may lie apart.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["gemm", "potrf", "potri", "symv", "syrk", "trsm"]

Array = npt.NDArray[Any]

_KINDS = {"f": "s", "d": "d", "F": "c", "D": "z"}
_Routine = Callable[..., None]


@cache
def _routine(library: str, name: str) -> _Routine | None:
    """The routine at the address that scipy tells Cython, if its integers are C's int."""
    from importlib import import_module

    try:
        capsule = import_module(f"scipy.linalg.cython_{library}").__pyx_capi__[name]
        api = ctypes.pythonapi
        api.PyCapsule_GetName.restype = ctypes.c_char_p
        api.PyCapsule_GetName.argtypes = [ctypes.py_object]
        api.PyCapsule_GetPointer.restype = ctypes.c_void_p
        api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        signature = api.PyCapsule_GetName(capsule)
        types = [kind.strip() for kind in signature.decode().partition("(")[2][:-1].split(",")]
        if not signature.startswith(b"void (") or any(
            not kind.startswith(("char ", "int ", "__pyx_t_")) for kind in types
        ):
            return None
        address = api.PyCapsule_GetPointer(capsule, signature)
    except (ImportError, AttributeError, KeyError, UnicodeDecodeError):
        return None
    routine: _Routine = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(types))(address)
    return routine


def _call(routine: _Routine, *arguments: str | int | Array) -> None:
    """All by reference: letters, C integers, arrays by their data."""
    places: list[Any] = []
    for argument in arguments:
        if isinstance(argument, str):
            places.append(ctypes.c_char_p(argument.encode()))
        elif isinstance(argument, int):
            places.append(ctypes.byref(ctypes.c_int(argument)))
        else:
            places.append(argument.ctypes.data)
    routine(*places)


def _step(a: Array) -> int:
    """Fortran's leading dimension. Raises ValueError where rows are not next to each other."""
    rows, columns = a.shape
    step = a.strides[1] // a.itemsize if columns > 1 else max(1, rows)
    if (rows > 1 and a.strides[0] != a.itemsize) or step < max(1, rows) or not a.flags.writeable:
        raise ValueError("a writeable matrix in Fortran's order is needed")
    return step


def potrf(a: Array) -> bool:
    """A = RᴴR in place, R in the upper triangle; False where A is not positive definite."""
    kind = _KINDS[a.dtype.char]
    n, step = len(a), _step(a)
    routine = _routine("lapack", kind + "potrf")
    if routine is None:  # pragma: no cover (a scipy that tells no addresses)
        from scipy.linalg import lapack

        factor, failed = getattr(lapack, kind + "potrf")(a, lower=0, clean=0, overwrite_a=1)
        if not np.shares_memory(factor, a):
            a[...] = factor
        return not failed
    info = np.zeros(1, np.intc)
    _call(routine, "U", n, a, step, info)
    return not info[0]


def potri(factor: Array) -> None:
    """R, the upper triangle of `potrf`, becomes that of (RᴴR)⁻¹, in place."""
    kind = _KINDS[factor.dtype.char]
    n, step = len(factor), _step(factor)
    routine = _routine("lapack", kind + "potri")
    if routine is None:  # pragma: no cover
        from scipy.linalg import lapack

        inverse, _ = getattr(lapack, kind + "potri")(factor, lower=0, overwrite_c=1)
        if not np.shares_memory(inverse, factor):
            factor[...] = inverse
        return
    _call(routine, "U", n, factor, step, np.zeros(1, np.intc))


def gemm(a: Array, b: Array, total: Array, sign: float = 1.0) -> None:
    """total += sign · a b in place, of one real kind; each in C's or in Fortran's order, or a part
    of such a matrix."""
    if not total.size or not a.shape[1]:
        return
    if not _by_columns(total):
        a, b, total = b.T, a.T, total.T
    letters, steps = [], []
    for factor in (a, b):
        straight = _by_columns(factor)
        letters.append("N" if straight else "T")
        steps.append(_stride(factor if straight else factor.T))
    routine = _routine("blas", _KINDS[total.dtype.char] + "gemm")
    if routine is None:  # pragma: no cover
        total += sign * (a @ b)
        return
    (m, k), n = a.shape, b.shape[1]
    weight, one = np.full(1, sign, total.dtype), np.ones(1, total.dtype)
    _call(routine, *letters, m, n, k, weight, a, steps[0], b, steps[1], one, total, _step(total))


def _by_columns(a: Array) -> bool:
    """Whether it is in Fortran's order. Raises ValueError where it is in C's neither."""
    if a.shape[0] == 1 or a.strides[0] == a.itemsize:
        return True
    if a.shape[1] > 1 and a.strides[1] != a.itemsize:
        raise ValueError("a matrix in C's or Fortran's order is needed")
    return False


def _stride(a: Array) -> int:
    rows, columns = a.shape
    step = a.strides[1] // a.itemsize if columns > 1 else 1
    return max(int(rows), int(step), 1)


def syrk(part: Array, gram: Array) -> None:
    """gram += part partᵀ in place, the upper triangle of real matrices."""
    kind = _KINDS[gram.dtype.char]
    (n, k), one = part.shape, np.ones(1, gram.dtype)
    routine = _routine("blas", kind + "syrk")
    if routine is None:  # pragma: no cover
        from scipy.linalg import blas

        found = getattr(blas, kind + "syrk")(1.0, part, beta=1.0, c=gram, overwrite_c=1)
        if not np.shares_memory(found, gram):
            gram[...] = found
        return
    _call(routine, "U", "N", n, k, one, part, _step(part), one, gram, _step(gram))


def symv(gram: Array, x: Array) -> Array:
    """gram x, of a real symmetric matrix of which the upper triangle is read."""
    kind = _KINDS[gram.dtype.char]
    routine = _routine("blas", kind + "symv")
    if routine is None:  # pragma: no cover
        from scipy.linalg import blas

        return np.asarray(getattr(blas, kind + "symv")(1.0, gram, x))
    x = np.ascontiguousarray(x, gram.dtype)
    y, one, none = np.zeros_like(x), np.ones(1, gram.dtype), np.zeros(1, gram.dtype)
    _call(routine, "U", len(gram), one, gram, _step(gram), x, 1, none, y, 1)
    return y


def trsm(factor: Array, y: Array, side: str = "L", trans: str = "N", uplo: str = "U") -> None:
    """y ← op(R)⁻¹y (side "L") or y op(R)⁻¹ ("R") in place; R the upper triangle of `factor`, or
    the lower one where uplo is "L"; trans: "N", "T" or "C"."""
    kind = _KINDS[y.dtype.char]
    routine = _routine("blas", kind + "trsm")
    if routine is None:  # pragma: no cover
        from scipy.linalg import blas

        found = getattr(blas, kind + "trsm")(
            1.0,
            factor,
            y,
            side=int(side == "R"),
            lower=int(uplo == "L"),
            trans_a="NTC".index(trans),
            overwrite_b=1,
        )
        if not np.shares_memory(found, y):
            y[...] = found
        return
    one = np.ones(1, y.dtype)
    _call(routine, side, uplo, trans, "N", *y.shape, one, factor, _step(factor), y, _step(y))
