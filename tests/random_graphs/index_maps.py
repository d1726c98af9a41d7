"""Ops that move entries about: reshapes, slices, gathers, scatters."""

from __future__ import annotations

import numpy as np

from tests.random_graphs.maker import KINDS, Maker, image, with_axes


def moved(b: Maker) -> None:
    """Reshape and its relatives."""
    x = b.variable()
    shape, n = b.shape(x), b.values[x].size
    op = b.pick(["Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"])
    if op == "Reshape":
        b.need(n)
        d = b.pick([k for k in range(1, n + 1) if n % k == 0])
        wanted = b.pick([(n,), (d, n // d), (1, d, n // d), (d, 1, n // d, 1)])
        target = list(wanted)
        if b.chance(0.4):
            target[b.number(0, len(target) - 1)] = -1
            b.emit("Reshape", x, b.ints(target))
        else:
            b.emit("Reshape", x, b.shape_of(target, x))
    elif op == "Flatten":
        b.need(shape)
        b.emit("Flatten", x, axis=b.number(0, len(shape)))
    elif op == "Transpose":
        b.emit("Transpose", x, perm=[int(k) for k in b.rng.permutation(len(shape))])
    elif op == "Squeeze":
        ones = [k for k, s in enumerate(shape) if s == 1]
        b.need(ones)
        with_axes(b, "Squeeze", x, b.pick([None, ones[:1], ones]))
    else:
        b.need(len(shape) < 5)
        with_axes(b, "Unsqueeze", x, [b.number(0, len(shape))])


def picked(b: Maker) -> None:
    """Slice, Gather, Pad and other index maps."""
    x = b.variable(least=1)
    shape = b.shape(x)
    axis = b.number(0, len(shape) - 1)
    n = shape[axis]
    op = b.pick(["Slice", "Gather", "GatherElements", "GatherND", "Pad", "Pad", "Expand", "Tile"])
    if op == "Slice":
        start, end, step = b.number(-n - 1, n), b.number(-n, n + 1), b.pick([1, 1, 2, -1, -2])
        if b.opset < 10:
            b.emit("Slice", x, axes=[axis], starts=[start], ends=[end])
        else:
            b.emit("Slice", x, *(b.ints([v]) for v in (start, end, axis, step)))
    elif op == "Gather":
        b.need(n)
        rows = b.rng.integers(-n if b.opset >= 11 else 0, n, b.pick([(), (2,), (3,), (2, 2)]))
        b.emit("Gather", x, b.ints(rows), axis=axis)
    elif op == "GatherElements":
        b.since(11)
        b.need(min(shape))
        b.emit(op, x, b.ints(b.rng.integers(-n, n, shape)), axis=axis)
    elif op == "GatherND":
        b.since(11)
        b.need(min(shape))
        b.emit(op, x, b.ints(b.rng.integers(0, shape[0], (3, 1))))
    elif op == "Pad":
        mode = b.pick(["constant", "constant", "reflect", "edge"])
        most = max(0, min(shape) - 1) if mode == "reflect" else 2
        pads = [b.number(-1 if mode == "constant" else 0, min(most, 2)) for _ in (*shape, *shape)]
        if b.opset < 11:
            b.emit("Pad", x, pads=pads, mode=mode)
        elif mode == "constant" and b.chance(0.5):
            b.emit("Pad", x, b.ints(pads), b.constant(np.float64(0.5)), mode=mode)
        else:
            b.emit("Pad", x, b.ints(pads), mode=mode)
    elif op == "Expand":
        target = [b.number(1, 3) if s == 1 else b.pick([1, s]) for s in shape]
        b.emit("Expand", x, b.shape_of([*b.pick([[], [2], [1]]), *target], x))
    else:
        b.emit("Tile", x, b.ints([b.number(1, 2) for _ in shape]))


def rarer(b: Maker) -> None:
    """Index maps that fewer networks have."""
    x = b.variable(least=1)
    shape = b.shape(x)
    axis = b.number(0, len(shape) - 1)
    op = b.pick(
        ["CumSum", "Trilu", "Scatter", "ScatterND", "TopK", "Depth", "Resize", "Crop", "Where"]
    )
    if op == "CumSum":
        b.since(11)
        at = b.constant(np.asarray(axis, np.int64), plain=True)
        b.emit(op, x, at, exclusive=b.number(0, 1), reverse=b.number(0, 1))
    elif op == "Trilu":
        b.since(14)
        b.need(len(shape) > 1)
        diagonal = b.constant(np.asarray(b.number(-1, 1), np.int64), plain=True)
        b.emit(op, x, diagonal, upper=b.number(0, 1))
    elif op == "Scatter":
        b.since(16)
        b.need(min(shape))
        other = b.like(x) if b.chance(0.6) else b.weight(*shape)
        indices = np.argsort(b.rng.random(shape), axis)
        how = b.pick(["none", "add", "max", "min"]) if b.opset >= 18 else b.pick(["none", "add"])
        first, second = (x, other) if b.chance(0.7) or other in b.variables else (other, x)
        b.emit("ScatterElements", first, b.ints(indices), second, axis=axis, reduction=how)
    elif op == "ScatterND":
        b.since(16)
        b.need(shape[0] > 1)
        rows = b.rng.permutation(shape[0])[:1]
        updates = b.emit("Gather", b.like(x), b.ints([0]), axis=0)
        b.emit(op, x, b.ints(rows[:, None]), updates, reduction=b.pick(["none", "add"]))
    elif op == "TopK":
        b.need(shape[axis])
        k = b.number(1, shape[axis])
        if b.opset >= 11:
            b.emit(op, x, b.ints([k]), outputs=(1, 1), axis=axis, largest=b.number(0, 1))
        elif b.opset == 10:
            b.emit(op, x, b.ints([k]), outputs=(1, 1), axis=axis)
    elif op == "Depth":
        x = image(b, 2)
        _, c, h, w = b.shape(x)
        if c % 4 == 0:
            modes = {"mode": b.pick(["DCR", "CRD"])} if b.opset >= 11 else {}
            b.emit("DepthToSpace", x, blocksize=2, **modes)
        else:
            b.need(h % 2 == 0 and w % 2 == 0)
            b.emit("SpaceToDepth", x, blocksize=2)
    elif op == "Resize":
        b.since(11)
        x = image(b, 2)
        mode = b.pick(["nearest", "linear", "cubic"])
        how = b.pick(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
        scales = b.constant(np.array([1, 1, *b.pick([(2, 2), (1.5, 2), (2, 0.5)])]), plain=True)
        empty = b.constant(np.zeros(0), plain=True)
        b.emit("Resize", x, empty, scales, mode=mode, coordinate_transformation_mode=how)
    elif op == "Crop":
        b.since(18)
        b.emit("CenterCropPad", x, b.ints([b.number(1, 4)]), axes=[axis])
    else:
        mask = b.constant(b.rng.random(b.pick([shape, shape[-1:], ()])) < 0.5, plain=True)
        other = b.pick([b.like(x), b.weight(*b.pick([shape, ()]))])
        b.emit("Where", mask, *b.pick([(x, other), (other, x)]))


def passed_on(b: Maker) -> None:
    """Ops that change nothing."""
    x = b.variable()
    kind = KINDS[b.dtype]
    op = b.pick(["Identity", "Dropout", "Cast"])
    if op == "Dropout":
        b.emit(op, x, outputs=b.pick([1, (1, 0), (1, 1)]) if b.opset >= 10 else (1, 0))
    else:
        b.emit(op, x, **({"to": kind} if op == "Cast" else {}))
