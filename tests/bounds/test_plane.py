"""Linear regions in the plane: against grids, brute force, rotations, and the point itself."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from onnxlip.bounds.plane import plane_constant
from onnxlip.errors import UsageError

Floats = npt.NDArray[np.float64]
Network = tuple[list[Floats], list[Floats]]


def random_network(sizes: list[int], seed: int) -> Network:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((n, m)) / math.sqrt(m) for m, n in itertools.pairwise(sizes)]
    return weights, [0.5 * rng.standard_normal(n) for n in sizes[1:]]


def norms_at(network: Network, x: Floats) -> Floats:
    """‖J‖₂ at points (m, 2), from the definition."""
    weights, biases = network
    jacobian, y = np.broadcast_to(np.eye(2), (len(x), 2, 2)), x
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        z = y @ w.T + b
        jacobian = (z > 0)[:, :, None] * (w @ jacobian)
        y = np.maximum(z, 0)
    return np.linalg.norm(weights[-1] @ jacobian, 2, axis=(1, 2))


DEEP = [[2, 5, 1], [2, 6, 6, 1], [2, 5, 5, 5, 3], [2, 8, 8, 8, 8, 2]]


@pytest.mark.parametrize("sizes", DEEP, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_no_point_of_a_dense_grid_is_steeper_and_some_far_one_is_as_steep(
    sizes: list[int], seed: int
) -> None:
    network = random_network(sizes, seed)
    found = plane_constant(*network)
    axis = np.linspace(-1, 1, 301)
    cube = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    seen = max(float(norms_at(network, radius * cube).max()) for radius in (0.3, 2.0, 10.0, 100.0))
    assert seen <= found.value * (1 + 1e-12)
    assert seen >= 0.9 * found.value


@pytest.mark.parametrize("sizes", DEEP, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_point_attains_the_value(sizes: list[int], seed: int) -> None:
    network = random_network(sizes, seed)
    found = plane_constant(*network)
    assert norms_at(network, found.point[None])[0] == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_one_hidden_layer_is_what_all_cells_of_its_lines_give(seed: int) -> None:
    """Every cell of lines in general position has a vertex, beside which all sign choices of the
    two lines through it occur."""
    network = random_network([2, 7, 2], seed)
    w, b = network[0][0], network[1][0]
    points = []
    for i, j in itertools.combinations(range(len(w)), 2):
        vertex = np.linalg.solve(w[[i, j]], -b[[i, j]])
        for signs in itertools.product((1e-6, -1e-6), repeat=2):
            points.append(vertex + np.linalg.solve(w[[i, j]], np.array(signs)))
    found = plane_constant(*network)
    assert found.value == pytest.approx(norms_at(network, np.array(points)).max(), rel=1e-12)
    assert found.regions >= 1 + 7 + 21  # lines in general position; quadrants may cut more


@pytest.mark.parametrize("angle", [0.1, 0.7, math.pi / 2, 2.5])
def test_rotated_inputs_have_the_same_constant(angle: float) -> None:
    weights, biases = random_network([2, 6, 6, 2], 3)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned = plane_constant([weights[0] @ turn, *weights[1:]], biases)
    plain = plane_constant(weights, biases)
    assert turned.value == pytest.approx(plain.value, rel=1e-12)
    there = norms_at((weights, biases), (turn @ turned.point)[None])
    assert there[0] == pytest.approx(plain.value, rel=1e-12)


def test_permuted_neurons_have_the_same_constant() -> None:
    weights, biases = random_network([2, 6, 6, 1], 5)
    order = np.random.default_rng(0).permutation(6)
    moved = [weights[0][order], weights[1][:, order], weights[2]]
    found = plane_constant(moved, [biases[0][order], *biases[1:]])
    assert found.value == pytest.approx(plane_constant(weights, biases).value, rel=1e-12)


def test_neurons_without_weights_or_bias_and_doubled_ones() -> None:
    w = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
    found = plane_constant([w, np.array([[1.0, 1.0, 5.0, 1.0]])], [np.zeros(4), np.zeros(1)])
    assert found.value == 2.0
    assert found.regions == 4


def test_a_network_that_is_open_nowhere_near_zero() -> None:
    w = np.array([[3.0, 4.0]])
    found = plane_constant([w, np.array([[2.0]])], [np.array([-1e6]), np.zeros(1)])
    assert found.value == pytest.approx(10.0, rel=1e-14)
    assert w[0] @ found.point > 1e6


def test_one_affine_map() -> None:
    found = plane_constant([np.array([[3.0, 0.0], [0.0, 4.0]])], [np.zeros(2)])
    assert (found.value, found.regions) == (4.0, 4)


def test_too_many_regions_and_three_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 20 linear regions"):
        plane_constant(*random_network([2, 20, 20, 1], 0), limit=20)
    with pytest.raises(UsageError, match="2 inputs"):
        plane_constant(*random_network([3, 4, 1], 0))
