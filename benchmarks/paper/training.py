"""Networks of the paper's experiments: made, trained on one thread from a seed, exported to ONNX.

    mlp    2 → 20 → … → 1, ReLU, on a sample of a Gaussian process on [−1, 1]², squared error
    cnn    the paper's convolutions with ReLU, on digits of 28 × 28 pixels, cross entropy

The same seed gives the same weights with one version of torch on one kind of CPU. Models go into a
cache folder and never into git.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["WIDTH", "cnn", "digits", "mlp", "regression", "rows"]

Floats = npt.NDArray[np.float64]

WIDTH = 20
_POINTS = 1000
_SCALE = 0.5  # of the Gaussian process: exp(−‖x − x'‖²/2 scale²)
_JITTER = 1e-6  # on its covariance's diagonal: without it float64 finds no Cholesky factor
_MLP_STEPS, _MLP_BATCH, _MLP_RATE = 4000, 100, 3e-3
_CNN_EPOCHS, _CNN_BATCH, _CNN_RATE = 8, 64, 1e-3
_VERSION = 1  # of what is trained: part of the files' names


def regression(seed: int) -> tuple[Floats, Floats]:
    """Points (1000, 2), uniform in [−1, 1]², and one Gaussian process's values there (1000,)."""
    rng = np.random.default_rng([seed, 2018])
    x = rng.uniform(-1, 1, (_POINTS, 2))
    square = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
    covariance = np.exp(-square / (2 * _SCALE**2)) + _JITTER * np.eye(_POINTS)
    return x, np.linalg.cholesky(covariance) @ rng.standard_normal(_POINTS)


def mlp(layers: int, seed: int, folder: Path) -> dict[str, Any]:
    """The trained network with `layers` affine maps: its file, and the error that training left."""
    x, y = regression(seed)

    def make(torch: Any) -> Any:
        nn = torch.nn
        sizes = [2, *[WIDTH] * (layers - 1), 1]
        parts: list[Any] = []
        for a, b in itertools.pairwise(sizes):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    def fit(torch: Any, model: Any) -> float:
        inputs, targets = _tensor(torch, x), _tensor(torch, y)[:, None]
        error = torch.nn.functional.mse_loss
        schedule = _batches(torch, _POINTS, _MLP_BATCH, _MLP_STEPS)
        _adam(torch, model, _MLP_RATE, schedule, lambda i: error(model(inputs[i]), targets[i]))
        with torch.no_grad():
            return float(error(model(inputs), targets))

    path = folder / f"paper-mlp-{layers}-{seed}-v{_VERSION}.onnx"
    return _once(path, make, fit, (1, 2), seed)


def digits(file: Path | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images (n, 1, 28, 28) in [0, 1] and labels: a file's x and y, or scikit-learn's digits."""
    if file is None:
        import torch
        from sklearn.datasets import load_digits

        data = load_digits()
        small = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
        large = torch.nn.functional.interpolate(
            small, size=28, mode="bilinear", align_corners=False
        )
        return large.numpy(), np.asarray(data.target, np.int64)
    with np.load(file) as held:
        x, y = np.asarray(held["x"], np.float32), np.asarray(held["y"], np.int64)
    x = x.reshape(len(x), 1, 28, 28)
    return (x / 255 if x.max() > 1 else x), y


def cnn(layers: int, seed: int, folder: Path, file: Path | None) -> dict[str, Any]:
    """The trained network with `layers` convolutions: its file, and its accuracy in training."""
    x, y = digits(file)

    def make(torch: Any) -> Any:
        nn = torch.nn
        convs = [nn.Conv2d(1, 32, 5, stride=2), nn.Conv2d(32, 64, 3, stride=2)]
        convs += [nn.Conv2d(64, 64, 3, padding=1) for _ in range(layers - 4)]
        convs += [nn.Conv2d(64, 128, 3, stride=2), nn.Conv2d(128, 10, 2)]
        parts = [part for conv in convs for part in (conv, nn.ReLU())]
        return nn.Sequential(*parts[:-1], nn.Flatten())

    def fit(torch: Any, model: Any) -> float:
        inputs, labels = torch.tensor(x), torch.tensor(y)
        error = torch.nn.functional.cross_entropy
        steps = _CNN_EPOCHS * -(-len(x) // _CNN_BATCH)
        schedule = _batches(torch, len(x), _CNN_BATCH, steps)
        _adam(torch, model, _CNN_RATE, schedule, lambda i: error(model(inputs[i]), labels[i]))
        with torch.no_grad():
            right = sum(
                int((model(inputs[i : i + 1000]).argmax(1) == labels[i : i + 1000]).sum())
                for i in range(0, len(x), 1000)
            )
        return right / len(x)

    data = "digits" if file is None else f"{file.stem}-{len(x)}"
    path = folder / f"paper-cnn-{layers}-{data}-{seed}-v{_VERSION}.onnx"
    return _once(path, make, fit, (1, 1, 28, 28), seed)


def rows(file: Path | None, most: int) -> npt.NDArray[np.float32]:
    """Images at which lower bounds look first."""
    return digits(file)[0][:most]


def _tensor(torch: Any, values: Floats) -> Any:
    return torch.tensor(values, dtype=torch.float32)


def _batches(torch: Any, points: int, size: int, steps: int) -> list[Any]:
    """So many batches of indices, in new orders as often as needed."""
    found: list[Any] = []
    while len(found) < steps:
        found += torch.randperm(points).split(size)
    return found[:steps]


def _adam(
    torch: Any, model: Any, rate: float, schedule: list[Any], loss: Callable[[Any], Any]
) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(schedule))
    for batch in schedule:
        optimiser.zero_grad()
        loss(batch).backward()
        optimiser.step()
        decay.step()


def _once(
    path: Path,
    make: Callable[[Any], Any],
    fit: Callable[[Any, Any], float],
    shape: tuple[int, ...],
    seed: int,
) -> dict[str, Any]:
    """Train and export, unless the folder has it; with what training reached."""
    reached = path.with_suffix(".txt")
    if not (path.exists() and reached.exists()):
        import torch

        path.parent.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        model = make(torch)
        score = fit(torch, model)
        model.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter that needs nothing but torch
            torch.onnx.export(
                model, (torch.zeros(shape),), path, dynamo=False, opset_version=17, verbose=False
            )
        reached.write_text(repr(score))
    return {"path": str(path), "score": float(reached.read_text())}
