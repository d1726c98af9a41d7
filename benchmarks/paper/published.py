"""The numbers of Virmaux & Scaman 2018 (NeurIPS): figure of the ideal scenario and three tables.

Weights were never published, so of the trained networks only ratios can be compared.
"""

from __future__ import annotations

__all__ = ["ALEXNET", "ALEXNET_NORMS", "CNN", "IDEAL", "MLP"]

IDEAL: dict[float, tuple[float, ...]] = {  # SeqLip/AutoLip at 1 … 10, by r; single draws
    0.5: (1, 0.7081, 0.5245, 0.3837, 0.3, 0.2087, 0.1512, 0.1164, 0.08659, 0.05824),
    0.1: (1, 0.4023, 0.207, 0.08362, 0.03738, 0.01499, 0.007439, 0.003785, 0.001864, 0.0008421),
    0.01: (
        1,
        0.3397,
        0.1517,
        0.0669,
        0.02994,
        0.006017,
        0.002638,
        0.000658,
        0.0005398,
        8.694e-05,
    ),
}

_MLP_COLUMNS = ("frobenius", "autolip", "seqlip", "greedy", "data", "annealing", "grid")
MLP: dict[int, dict[str, float]] = {
    layers: dict(zip(_MLP_COLUMNS, row, strict=True))
    for layers, row in {
        4: (648.2, 33.04, 21.47, 21.47, 4.36, 4.55, 6.56),
        5: (4283.1, 134.4, 72.87, 72.87, 6.77, 5.8, 7.1),
        7: (22341, 294.6, 130.2, 130.2, 5.4, 5.27, 6.51),
        10: (7343800, 19248.2, 2463.44, 2463.36, 10.04, 5.77, 17.1),
    }.items()
}

_CNN_COLUMNS = ("autolip", "greedy", "data", "annealing")
CNN: dict[int, dict[str, float]] = {
    layers: dict(zip(_CNN_COLUMNS, row, strict=True))
    for layers, row in {
        4: (174, 86, 12.64, 25.5),
        5: (790.1, 335, 16.79, 22.2),
        7: (12141, 3629, 31.22, 43.6),
        10: (4.5e6, 8.2e5, 38.26, 107.8),
    }.items()
}

ALEXNET = {"autolip": 3.62e7, "greedy": 5.45e6}
# Spectral norms of torchvision's weights, eight layers, as computed for this project.
ALEXNET_NORMS = (9.0547, 14.9753, 12.1382, 14.3250, 16.6019, 5.9382, 9.3003, 6.6770)
