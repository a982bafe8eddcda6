# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pc3dcli.geometry.superpoints import (
    cloud_superpoints,
    edge_weights,
    felzenszwalb,
    mesh_superpoints,
    neighbor_graph,
    vertex_normals,
)


def literal_felzenszwalb(num_vertices, edges, weights, k, min_size):
    """The two loops of the published program over all sorted edges, one union-find each step."""
    parent, size, limit = list(range(num_vertices)), [1] * num_vertices, [k] * num_vertices

    def find(x):
        while parent[x] != x:
            x = parent[x]
        return x

    order = sorted(range(len(edges)), key=lambda e: (weights[e], e))
    for e in order:
        a, b = find(edges[e][0]), find(edges[e][1])
        if a != b and weights[e] <= limit[a] and weights[e] <= limit[b]:
            parent[b] = a
            size[a] += size[b]
            limit[a] = weights[e] + k / size[a]
    for e in order:
        a, b = find(edges[e][0]), find(edges[e][1])
        if a != b and (size[a] < min_size or size[b] < min_size):
            parent[b] = a
            size[a] += size[b]
    numbers = {}
    return np.array([numbers.setdefault(find(x), len(numbers)) for x in range(num_vertices)])


@pytest.mark.parametrize("levels", [None, 2, 6])  # None: all weights differ; few levels: many ties
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_literal_loop_on_random_graphs(seed, levels):
    rng = np.random.default_rng(seed)
    num_vertices = int(rng.integers(2, 120))
    edges = rng.integers(0, num_vertices, (int(rng.integers(1, 500)), 2))  # duplicates and self loops included
    weights = rng.random(len(edges)) ** 3 if levels is None else rng.integers(0, levels, len(edges)) / levels
    for k in (0.01, 0.3, 3.0):
        for min_size in (1, 5):
            expected = literal_felzenszwalb(num_vertices, edges.tolist(), weights.tolist(), k, min_size)
            np.testing.assert_array_equal(felzenszwalb(num_vertices, edges, weights, k, min_size), expected)


def test_equals_the_literal_loop_over_several_chunks():
    mesh_vertices, faces = grid_mesh(75, bumps=0.004)  # 16,000 edges: more than one chunk
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [0, 2]], faces[:, [2, 1]]])
    weights = edge_weights(mesh_vertices, vertex_normals(mesh_vertices, faces), edges)
    expected = literal_felzenszwalb(len(mesh_vertices), edges.tolist(), weights.tolist(), 0.05, 20)
    np.testing.assert_array_equal(felzenszwalb(len(mesh_vertices), edges, weights, 0.05, 20), expected)
    assert expected.max() > 3


def test_a_join_outside_the_minimum_spanning_tree_is_found():
    # u and v hang on a large component that is frozen; they still join each other by a heavier direct edge
    edges = np.array([[0, 1], [1, 2], [2, 3], [4, 0], [5, 0], [4, 5]])
    weights = np.array([0.0, 0.0, 0.0, 0.5, 0.5, 0.6])
    np.testing.assert_array_equal(felzenszwalb(6, edges, weights, 1.0), [0, 0, 0, 0, 1, 1])


def grid_mesh(n, bumps=0.0):
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    z = np.random.default_rng(0).normal(0, 1, (n, n)) * bumps
    corner = (x * n + y)[:-1, :-1].reshape(-1)
    faces = np.concatenate(
        [np.stack([corner, corner + n, corner + 1], 1), np.stack([corner + 1, corner + n, corner + n + 1], 1)]
    )
    return np.stack([x * 0.02, y * 0.02, z], -1).reshape(-1, 3), faces


def test_two_perpendicular_planes_are_two_segments():
    flat, faces = grid_mesh(15)
    wall = flat[:, [2, 1, 0]]  # shares the row x = 0 with the floor
    vertices = np.concatenate([flat, wall])
    joined = np.arange(len(vertices))
    joined[len(flat) : len(flat) + 15] = np.arange(15)
    faces = joined[np.concatenate([faces, faces[:, ::-1] + len(flat)])]
    segment = mesh_superpoints(vertices, faces)
    used = np.unique(faces)
    assert len(np.unique(segment[used])) == 2
    assert len(np.unique(segment[15:225])) == 1 and len(np.unique(segment[len(flat) + 15 :])) == 1


def test_a_smooth_sphere_is_one_segment():
    direction = fibonacci_sphere(3000)
    assert cloud_superpoints(direction, direction, k=0.05).max() == 0
    assert cloud_superpoints(direction, None, k=0.05).max() == 0


def fibonacci_sphere(n):
    k = np.arange(n) + 0.5
    height, angle = 1 - 2 * k / n, np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


def test_two_planes_of_a_cloud_with_and_without_normals():
    a = np.stack(np.meshgrid(np.arange(30), np.arange(30), [0]), -1).reshape(-1, 3) * 0.02
    points = np.concatenate([a, a[:, [2, 1, 0]] + [-0.02, 0, 0.02]])
    normals = np.repeat([[0, 0, 1.0], [1.0, 0, 0]], 900, axis=0)
    for given in (normals, None):
        segment = cloud_superpoints(points, given)
        table = np.stack([np.bincount(segment[:900], minlength=20), np.bincount(segment[900:], minlength=20)])
        assert (table.max(axis=1) > 0.8 * 900).all()  # local planes are mixed near the crease
        assert table[0].argmax() != table[1].argmax()


def test_convex_edges_weigh_less_than_concave_ones():
    points = np.array([[0.0, 0, 0], [1, 0, 0]])
    outward = np.array([[-0.6, 0, 0.8], [0.6, 0, 0.8]])  # a ridge: the second normal leans away from the first point
    edge = np.array([[0, 1]])
    plain = 1 - 0.28
    assert edge_weights(points, outward, edge)[0] == pytest.approx(plain**2)
    assert edge_weights(points, outward[::-1], edge)[0] == pytest.approx(plain)


def test_neighbor_graph_leaves_out_the_point_itself_even_among_twins():
    points = np.zeros((12, 3))
    neighbors = neighbor_graph(points, 8)
    assert neighbors.shape == (12, 8)
    assert not (neighbors == np.arange(12)[:, None]).any()
    assert neighbor_graph(points[:3], 8).shape == (3, 2)


def test_edge_cases():
    assert felzenszwalb(3, np.zeros((0, 2), int), np.zeros(0), 1.0, 20).tolist() == [0, 1, 2]
    assert cloud_superpoints(np.zeros((0, 3))).shape == (0,)
    assert cloud_superpoints(np.zeros((1, 3))).tolist() == [0]
    assert set(cloud_superpoints(np.zeros((30, 3)))) == {0}
    assert mesh_superpoints(np.zeros((2, 3)), np.zeros((0, 3), int)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="vertices 0 to 1"):
        mesh_superpoints(np.zeros((2, 3)), np.array([[0, 1, 2]]))
