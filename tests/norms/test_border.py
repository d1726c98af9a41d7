"""The torus's border released: a theorem whatever the search gives it, sharp if that is good, and
every error that the docstring names is added."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest

from onnxlip.linear import Convolution
from onnxlip.norms import border
from onnxlip.norms.border import border_square
from onnxlip.norms.border_search import Release
from onnxlip.norms.frame import Frame
from onnxlip.norms.modes import Modes, modes_above
from onnxlip.norms.torus import Effort, TorusBound, torus_bound

from .oracle import Floats, dense_convolution, random_convolution, svd_norm
from .written_torus import Torus, framed, written_out

METHOD = "torus, border released"


def _plain(channels: tuple[int, int], side: int, stride: int = 1, same: bool = True) -> Convolution:
    kernel = np.random.default_rng(side).standard_normal((*channels, 3, 3))
    b = int(same)
    out = (side + 2 * b - 3) // stride + 1
    return Convolution(kernel, (side,) * 2, (out,) * 2, (stride,) * 2, (1, 1), (b, b))


def _bound(conv: Convolution, known: float, tolerance: float = 1e-3) -> TorusBound:
    found = torus_bound(conv, Effort(tolerance, lambda: known, 1000))
    assert found is not None
    return found


def _any_map(rng: np.random.Generator, d: int) -> Convolution:
    return random_convolution(rng, d, {1: 24, 2: 7, 3: 4}[d])


# ── What it is for ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("known", [0.5, 0.9, 0.99, 0.9999, 1.0])
def test_sound_on_any_geometry(d: int, known: float) -> None:
    """Whatever is thought to be known: a goal below the norm is not proved."""
    rng = np.random.default_rng([d, int(1e4 * known)])
    used = 0
    for _ in range(60):
        conv = _any_map(rng, d)
        truth = svd_norm(dense_convolution(conv))
        found = _bound(conv, known * truth, 1e-6)
        used += found.method == METHOD
        assert truth * (1 - 1e-13) <= found.upper, conv
    assert used


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(2, 2), (2, 9), (9, 2), (5, 5), (4, 8), (9, 8)])
def test_within_the_tolerance_that_is_asked_for(
    channels: tuple[int, int], stride: int, same: bool
) -> None:
    reached = 0
    for side in (5, 7, 10):
        conv = _plain(channels, side, stride, same)
        truth = svd_norm(dense_convolution(conv))
        found = _bound(conv, truth, 1e-3)
        reached += found.upper <= truth * 1.001 * (1 + 1e-6)
        assert truth * (1 - 1e-13) <= found.upper <= truth * 1.002  # where s² had to be raised
    assert reached >= 2


def test_one_channel_lines_and_cubes_are_sharp_too() -> None:
    rng = np.random.default_rng(0)
    for d, side in ((1, 12), (2, 6), (3, 4)):
        for channels in ((1, 1), (1, 3), (3, 1), (2, 2)):
            kernel = rng.standard_normal((*channels, *(3,) * d))
            conv = Convolution(kernel, (side,) * d, (side,) * d, (1,) * d, (1,) * d, (1,) * d)
            truth = svd_norm(dense_convolution(conv))
            assert truth * (1 - 1e-13) <= _bound(conv, truth).upper <= truth * 1.001 * (1 + 1e-6)


def test_groups_have_a_border_each() -> None:
    kernel = np.random.default_rng(1).standard_normal((6, 2, 3, 3))
    conv = replace(_plain((6, 2), 6), kernel=kernel, groups=3)
    truth = svd_norm(dense_convolution(conv))
    for known in (0.9, 1.0):
        assert truth * (1 - 1e-13) <= _bound(conv, known * truth).upper <= truth * 1.12
    assert _bound(conv, truth).upper <= truth * 1.001 * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1e-30, 1e30, 1e100, 1e200])
def test_kernels_of_any_size_of_number(scale: float) -> None:
    conv = _plain((3, 4), 6)
    large = replace(conv, kernel=conv.kernel * scale)
    truth = svd_norm(dense_convolution(conv))
    found = _bound(large, truth * scale)
    assert found.method == METHOD
    assert truth * (1 - 1e-13) <= found.upper / scale <= truth * 1.001 * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e30])
def test_float32_at_the_ends_of_its_range(scale: float) -> None:
    conv = _plain((3, 4), 6)
    small = replace(conv, kernel=(conv.kernel * 3 * scale).astype(np.float32))
    e = -math.frexp(scale)[1]
    exact = np.ldexp(small.kernel.astype(np.float64), e)
    truth = svd_norm(dense_convolution(replace(conv, kernel=exact)))
    found = _bound(small, float(np.ldexp(truth, -e)))
    assert truth * (1 - 1e-13) <= np.ldexp(found.upper, e) <= truth * 1.001 * (1 + 1e-6)


def test_the_same_bits_twice() -> None:
    for conv in (_plain((4, 6), 7), _plain((6, 3), 8, 2), _plain((3, 3), 6, same=False)):
        truth = svd_norm(dense_convolution(conv))
        assert _bound(conv, truth) == _bound(conv, truth)


# ── The theorem, whatever the search hands over ───────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Case:
    """A convolution, its frame, V at some s², and all of it written out."""

    conv: Convolution
    square: float
    depth: float = 0.1
    twist: int = 1

    @cached_property
    def frame(self) -> Frame:
        return framed(self.conv, self.twist)

    @cached_property
    def torus(self) -> Torus:
        return written_out(self.frame)

    @cached_property
    def modes(self) -> Modes:
        found = modes_above(self.frame, self.square * (1 - self.depth), 10**6)
        assert found is not None
        return found

    @cached_property
    def columns(self) -> Floats:
        """V in space, (sites · n, k): at ±ω first w and w̄, then −iw and iw̄."""
        f, count = self.frame, len(self.torus.waves)
        v = np.zeros((count, f.symbol.order, self.modes.count))
        index = np.ravel_multi_index(tuple(f.sites.T), f.grid.shape)
        for j, at in enumerate(index):
            w = self.modes.columns(j)
            waves = self.torus.waves[:, at, None, None] * w
            parts = (waves.real,) if f.own[j] else (2 * waves.real, 2 * waves.imag)
            v[:, :, self.modes.where(j)] = np.concatenate(parts, axis=2)
        return v.reshape(count * f.symbol.order, -1)

    @cached_property
    def b(self) -> Floats:
        """B in space."""
        c, v = self.torus.matrix, self.columns
        return self.square * np.eye(len(c)) - c @ c.T + v @ v.T

    def loss(self, inner: Floats, outer: Floats) -> Floats:
        """TᵀT + YᵀB⁻¹Y for D and T over the whole torus."""
        y = self.columns + inner - self.torus.matrix @ outer
        return outer.T @ outer + y.T @ np.linalg.solve(self.b, y)

    def best(
        self, inner: Floats | None = None, outer: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The D and T of the least loss, over the whole torus; inner, outer: instead of images."""
        root = np.linalg.inv(np.linalg.cholesky(self.b))
        free = np.eye(len(root))[:, ~(self.torus.inner if inner is None else inner)]
        other = np.eye(self.torus.matrix.shape[1])
        other = other[:, ~(self.torus.outer if outer is None else outer)]
        system = np.block(
            [
                [root @ free, -root @ self.torus.matrix @ other],
                [np.zeros((other.shape[1], free.shape[1])), np.eye(other.shape[1])],
            ]
        )
        right = np.vstack((-root @ self.columns, np.zeros((other.shape[1], self.modes.count))))
        found = np.linalg.lstsq(system, right)[0]
        return free @ found[: free.shape[1]], other @ found[free.shape[1] :]

    def release(self, inner: Floats, outer: Floats) -> Release:
        """As the search would hand them over, but in float64."""
        f = self.frame
        at = [
            np.ravel_multi_index(tuple(places.T), f.grid.shape) if len(places) else []
            for places in (f.beyond_inner, f.beyond_outer)
        ]
        count = len(self.torus.waves)
        d = inner.reshape(count, f.symbol.order, -1)[at[0]]
        t = outer.reshape(count, f.parts.shape[2], -1)[at[1]]
        return Release(d, t, 1.0, self.square, 0.5, 0.0)


def _random(kernel: tuple[int, ...], *geometry: tuple[int, ...]) -> Convolution:
    return Convolution(np.random.default_rng(kernel).standard_normal(kernel), *geometry)


# The convolution, and 2θ.
GEOMETRIES: dict[str, tuple[Convolution, int]] = {
    "plane": (_plain((2, 3), 4), 1),
    "turned": (_plain((3, 2), 4), 1),
    "valid": (_plain((3, 2), 5, same=False), 1),
    "untwisted": (_plain((2, 3), 4), 0),
    "strided": (_plain((2, 1), 6, 2), 1),
    "phases of the border": (_random((5, 1, 4), (3,), (2,), (2,), (1,), (1,)), 0),
    "phases of the other border": (_random((2, 2, 4), (3,), (2,), (2,), (1,), (1,)), 0),
    "circles": (_random((2, 2, 3), (8,), (8,), (1,), (2,), (2,)), 1),
    "an axis without shifts": (
        _random((3, 2, 1, 3), (3, 5), (5, 5), (1, 1), (1, 1), (1, 1)),
        1,
    ),
}


def _case(name: str, factor: float = 1.0, depth: float = 0.1) -> tuple[Case, float]:
    """s² = factor · ‖A‖², and ‖A‖²."""
    conv, twist = GEOMETRIES[name]
    truth = svd_norm(dense_convolution(conv)) ** 2
    return Case(conv, factor * truth, depth, twist), truth


@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_is_computed_is_the_theorems(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VVᵀ lifts the modes, and TᵀT + X̂ᴴX̂ is TᵀT + YᵀB⁻¹Y, for any D and T."""
    case, _ = _case(name)
    assert np.linalg.eigvalsh(case.b)[0] > 0.05 * case.square
    rng = np.random.default_rng(5)
    shapes = case.columns.shape, (case.torus.matrix.shape[1], case.modes.count)
    inner, outer = (0.1 * rng.standard_normal(shape) for shape in shapes)
    inner *= math.sqrt(case.square) * ~case.torus.inner[:, None]
    outer *= ~case.torus.outer[:, None]
    for d, t in ((inner, outer), (0 * inner, 0 * outer), case.best()):
        seen: list[Floats] = []
        monkeypatch.setattr(border, "_largest", lambda x, s=seen: (s.append(x.copy()), math.inf)[1])
        border._proved(case.frame, case.modes, case.release(d, t))
        exact = case.loss(d, t)
        assert seen[0] == pytest.approx(exact, abs=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_best_columns_leave_no_slack(name: str) -> None:
    """κ ≤ 1 if and only if s ≥ ‖A‖ (with one circle's norm, or that of all of them)."""
    for factor, reached in ((1 - 1e-6, False), (1 + 1e-4, True)):
        case, truth = _case(name, factor)
        found = border._proved(case.frame, case.modes, case.release(*case.best()))
        if reached:
            assert truth <= found <= case.square * (1 + 1e-9)
        else:
            assert found == math.inf


@pytest.mark.parametrize("name", ["phases of the border", "phases of the other border"])
def test_columns_within_the_image_are_ignored(name: str) -> None:
    """A place where some phases are of the image and some are not: the search may fill all of it,
    and would prove the norm of what reads nothing there, if the image were not masked."""
    conv, twist = GEOMETRIES[name]
    f, torus = framed(conv, twist), written_out(framed(conv, twist))
    smaller = []
    for inside, beyond, channels in (
        (torus.inner, f.beyond_inner, f.symbol.order),
        (torus.outer, f.beyond_outer, f.parts.shape[2]),
    ):
        image = inside.reshape(-1, channels).copy()
        image[np.ravel_multi_index(tuple(beyond.T), f.grid.shape)] = False
        smaller.append(image.reshape(-1))
    truth = svd_norm(torus.cut) ** 2
    less = svd_norm(torus.matrix[np.ix_(*smaller)]) ** 2
    assert less < 0.99 * truth
    case = Case(conv, 0.5 * (less + truth), 0.2, twist)
    d, t = case.best(*smaller)
    assert np.linalg.eigvalsh(case.loss(d, t))[-1] < 0.999
    assert border._proved(case.frame, case.modes, case.release(d, t)) == math.inf


Spoiler = Callable[[np.random.Generator, Frame, Modes, Release], Release]


def _noise(scale: float) -> Spoiler:
    def spoil(rng: np.random.Generator, f: Frame, modes: Modes, r: Release) -> Release:
        size = scale * max(1e-300, float(np.abs(r.inner).max(initial=0)))
        inner = r.inner + size * rng.standard_normal(r.inner.shape)
        return replace(r, inner=inner, outer=r.outer + scale * rng.standard_normal(r.outer.shape))

    return spoil


SPOILED: dict[str, Spoiler] = {
    "as found": lambda rng, f, modes, r: r,
    "a little noise": _noise(1e-3),
    "noise": _noise(0.3),
    "garbage": _noise(1e3),
    "not a number": lambda rng, f, modes, r: replace(r, inner=r.inner * math.nan),
    "infinite": lambda rng, f, modes, r: replace(r, outer=r.outer + math.inf),
    "nothing": lambda rng, f, modes, r: replace(r, inner=0 * r.inner, outer=0 * r.outer),
    "swapped": lambda rng, f, modes, r: replace(r, inner=-r.inner, outer=-r.outer),
    "of a larger s": lambda rng, f, modes, r: replace(r, square=r.square * 0.9),
    "full of hope": lambda rng, f, modes, r: replace(r, top=0.0),
    "flat": lambda rng, f, modes, r: replace(r, top=1.05, slope=1e30),
    "steep": lambda rng, f, modes, r: replace(r, top=1.05, slope=1e-30),
    "falling": lambda rng, f, modes, r: replace(r, top=1.05, slope=-1.0),
    "doubled": lambda rng, f, modes, r: replace(r, unit=2 * r.unit),
}


@pytest.mark.parametrize("how", SPOILED)
def test_bad_columns_cost_tightness_but_not_truth(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    real = border.released

    def spoiled(f: Frame, modes: Modes, square: float, entries: int) -> Release | None:
        found = real(f, modes, square, entries)
        if found is None:
            return None
        with np.errstate(all="ignore"):
            return replace(SPOILED[how](rng, f, modes, found), top=0.5)

    monkeypatch.setattr(border, "released", spoiled)
    for trial in range(30):
        conv = _any_map(rng, 1 + trial % 3)
        truth = svd_norm(dense_convolution(conv))
        with np.errstate(all="ignore"):
            found = _bound(conv, float(rng.choice([0.9, 0.99, 1.0])) * truth)
        assert truth * (1 - 1e-13) <= found.upper, conv


@pytest.mark.parametrize("how", ["scaled", "noisy", "few", "none", "huge", "turned"])
def test_bad_modes_cost_tightness_but_not_truth(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)

    def spoil(w: Floats, own: bool) -> Floats:
        noise = rng.standard_normal(w.shape) + (0 if own else 1j) * rng.standard_normal(w.shape)
        if how == "scaled":
            return w * rng.uniform(0.5, 1.5)
        if how == "noisy":
            return w + 0.1 * np.abs(w).max() * noise
        if how == "huge":
            return w * 1e6
        return w if own else w * np.exp(1j * rng.uniform(0, 7, w.shape[1]))

    def spoiled(f: Frame, cut: float, most: int) -> Modes | None:
        found = modes_above(f, cut, most)
        if found is None:
            return None
        if how in ("few", "none"):
            kept = {j for j in found.coefficients if how == "few" and rng.random() < 0.8}
            widths = [np.diff(found.begins)[j] * (j in kept) for j in range(len(f.sites))]
            begins = np.concatenate(([0], np.cumsum(widths))).astype(np.int64)
            return Modes({j: found.coefficients[j] for j in kept}, begins, found.order)
        changed = {j: spoil(w, bool(f.own[j])) for j, w in found.coefficients.items()}
        return replace(found, coefficients=changed)

    monkeypatch.setattr(border, "modes_above", spoiled)
    for trial in range(40):
        conv = _any_map(rng, 1 + trial % 3)
        truth = svd_norm(dense_convolution(conv))
        with np.errstate(all="ignore"):
            found = _bound(conv, float(rng.choice([0.9, 0.99, 1.0])) * truth)
        assert truth * (1 - 1e-13) <= found.upper, conv


def test_all_that_fails_gives_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    case, truth = _case("plane")
    goal, peak = case.square, 1.1 * case.square

    def proved() -> float:
        return border_square(case.frame, goal, peak, 1000, 1 << 20)

    assert truth <= proved() < math.inf
    assert border_square(case.frame, goal, peak, 0, 1 << 20) == math.inf
    monkeypatch.setattr(border, "released", lambda *a: None)
    assert proved() == math.inf


# ── Every error is added ──────────────────────────────────────────────────────────────────────


def _good(name: str, factor: float = 1.05) -> tuple[Case, Release]:
    case, _ = _case(name, factor)
    return case, case.release(*case.best())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_errors_of_symbols_and_of_cholesky_are_added(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, release = _good(name)
    plain = border._proved(case.frame, case.modes, release)
    wide = replace(case.frame, symbol=replace(case.frame.symbol, error=0.5))
    assert border._proved(wide, case.modes, release) >= case.square + 0.5
    real = border.cholesky_margin
    monkeypatch.setattr(border, "cholesky_margin", lambda *a, **k: real(*a, **k) + 0.25)
    assert border._proved(case.frame, case.modes, release) >= case.square + 0.25
    assert plain <= case.square * (1 + 1e-9)


def test_the_largest_eigenvalue_of_the_products_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((6, 6))
    gram = x.T @ x
    truth = float(np.linalg.eigvalsh(gram)[-1])
    assert truth <= border._largest(gram) <= truth * (1 + 2e-6) + 1e-8
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda a: np.array([0.9 * truth]))
    assert border._largest(gram) == math.inf
    monkeypatch.undo()
    real = border.factored_margin
    monkeypatch.setattr(border, "factored_margin", lambda *a: (real(*a) or 0.0) + 0.25)
    assert border._largest(gram) >= truth + 0.25
    monkeypatch.undo()
    assert border._largest(np.zeros((0, 0))) == 0
    for bad in (math.nan, math.inf):
        assert border._largest(np.full((2, 2), bad)) == math.inf


@pytest.mark.parametrize("unit", [1e-8, 1e-6, 3e-5])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_roundings_are_those_of_the_docstring(
    name: str, unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a coarser unit in place of u, as large as not to be lost beside s² and κ, everything
    that the docstring adds is found again in the bound."""
    case, release = _good(name)
    f, modes = case.frame, case.modes
    exact = case.loss(*case.best())
    d, t = (np.asarray(x) for x in (release.inner, release.outer))
    n, r = f.parts.shape[1:]
    margins: list[float] = []

    def margin(order: int, trace: float, largest: float, is_complex: bool) -> float:
        assert is_complex
        margins.append(math.sqrt(2) * unit * (2 * order + 4) * trace)
        return margins[-1]

    monkeypatch.setattr(border, "gamma", lambda k: k * unit)
    monkeypatch.setattr(border, "UNIT", unit)
    monkeypatch.setattr(border, "cholesky_margin", margin)
    found = border._proved(f, modes, release)

    first, lengths = 0.0, []
    grams = f.symbol.grams(f.grid, f.sites)
    for j, (gram, weight) in enumerate(zip(grams, f.weights, strict=True)):
        w = modes.columns(j)
        rest = gram - weight * (w @ w.conj().T)
        trace = n * case.square - np.trace(rest).real
        lengths.append(math.sqrt(trace))
        here = math.sqrt(2) * unit * (2 * n + 4) * trace
        if w.shape[1]:
            mass = float(weight * np.square(np.abs(w)).sum())
            here += math.sqrt(2) * unit * (2 * w.shape[1] + 4) * mass
            here += 4 * unit * float(np.linalg.norm(rest))
        first = max(first, here)
    trace = float(np.trace(exact))
    sites, places = len(f.sites), (len(d), len(t))
    kappa = np.linalg.eigvalsh(exact)[-1] + unit * trace * (n + 2 * sites + r * places[1] + 1)
    if not kappa < 0.999:
        assert found == math.inf or kappa < 1
        return
    m = 2 * (r + len(f.places) + sum(places)) + 16 * len(f.grid.shape) + 32
    modulus = float(np.linalg.norm(np.abs(f.parts).sum(axis=0)))
    sizes = (
        float(np.linalg.norm(case.columns))
        + math.sqrt(places[0]) * float(np.linalg.norm(d))
        + math.sqrt(places[1]) * modulus * float(np.linalg.norm(t))
    )
    solved = math.sqrt(max(0.0, trace - float(np.square(t).sum())))
    second = 4 * unit * m * sizes
    second += math.sqrt(2) * unit * (2 * n + 4) * max(lengths) * solved
    errors = first + second**2 / (1 - kappa)
    assert found >= case.square + errors * (1 - 1e-6)
    if found < math.inf:
        assert len(margins) == sites


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_error_of_solves_is_added(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone: √2 γ_{2n+4} ‖L̂‖_F ‖X̂‖_F, with 2 trace for both squares."""
    unit = 1e-7
    case, release = _good(name)
    f, n = case.frame, case.frame.symbol.order
    monkeypatch.setattr(border, "cholesky_margin", lambda *a, **k: 0.0)
    monkeypatch.setattr(border, "_frobenius", lambda x: 0.0)
    monkeypatch.setattr(Modes, "size", 0.0)
    monkeypatch.setattr(border, "UNIT", 0.0)
    monkeypatch.setattr(border, "gamma", lambda k: k * unit)
    found = border._proved(f, case.modes, release)
    traces = []
    for j, gram in enumerate(f.symbol.grams(f.grid, f.sites)):
        mass = f.weights[j] * np.square(np.abs(case.modes.columns(j))).sum()
        traces.append(n * case.square - np.trace(gram).real + mass)
    exact = case.loss(*case.best())
    lost = math.sqrt(2) * unit * (2 * n + 4) * math.sqrt(4 * max(traces) * np.trace(exact))
    kappa = float(np.linalg.eigvalsh(exact)[-1])
    assert found - case.square >= lost**2 / (1 - kappa) * (1 - 1e-3) - 1e-15 * case.square


@pytest.mark.parametrize("name", [*GEOMETRIES, "line"])
def test_the_error_of_products_is_added(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """κ and what its sums may have lost reach 1 together: then nothing is proved."""
    if name == "line":  # many sites, few channels, no T
        conv = _random((2, 2, 3), (90,), (90,), (1,), (1,), (1,))
        truth = svd_norm(dense_convolution(conv)) ** 2
        whole = Case(conv, 1.02 * truth, 0.1)
        case, outer = whole, np.ones_like(whole.torus.outer)
        columns = whole.best(outer=outer)
        f = whole.frame.one_sided()
        release = replace(whole.release(*columns), outer=np.zeros((0, 2, whole.modes.count)))
    else:
        case, release = _good(name)
        f, columns = case.frame, case.best()
    exact = case.loss(*columns)
    kappa = float(np.linalg.eigvalsh(exact)[-1])
    assert kappa < 1 - 1e-5
    assert border._proved(f, case.modes, release) < math.inf
    depth = f.symbol.order + 2 * len(f.sites) + release.outer.shape[0] * release.outer.shape[1] + 1
    unit = (1 - kappa) / (depth * float(np.trace(exact)))
    monkeypatch.setattr(border, "gamma", lambda k: k * unit)
    assert border._proved(f, case.modes, release) == math.inf


def test_sizes_that_errors_scale_with_are_upper_bounds() -> None:
    for name in GEOMETRIES:
        case, _ = _case(name)
        assert case.modes.size >= float(np.linalg.norm(case.columns)) * (1 - 1e-14)
        assert case.frame.modulus >= np.linalg.norm(case.torus.symbols, axis=(1, 2)).max()
    x = np.random.default_rng(9).standard_normal((3, 4, 5))
    assert np.linalg.norm(x) <= border._frobenius(x) <= np.linalg.norm(x) * (1 + 1e-12)
    assert border._frobenius(1j * x) >= np.linalg.norm(x)
