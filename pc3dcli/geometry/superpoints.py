# SPDX-License-Identifier: Apache-2.0
"""Graph-based over-segmentation of meshes and clouds (Felzenszwalb, Huttenlocher 2004), as in the Segmentator.

Edges in order of weight w join two components when w <= Int(C) + k / |C| holds for both, Int(C) being the weight of
the last edge that joined C; then components below a least size join along the sorted edges.  The result is that
of the plain loop over all edges (granularity_tracking.md section 8); only edges that cannot matter are skipped.

Departures: equal weights keep edge order (the original sort is unstable, so its ties are arbitrary); segments are
numbered by their first vertex; a cloud without faces uses an 8-nearest-neighbour graph with normals of local planes.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

MESH_K = 0.01  # spec section 8
MIN_SIZE = 20  # vertices, spec section 8
NEIGHBORS = 8  # spec section 8, clouds
CHUNK = 1 << 17  # edges that are worked on at a time: bounds memory


def mesh_superpoints(
    vertices: np.ndarray, faces: np.ndarray, k: float = MESH_K, min_size: int = MIN_SIZE
) -> np.ndarray:
    """Partition the vertices of a triangle mesh.

    vertices  (N, 3) float, metres
    faces     (F, 3) int, vertex indices
    returns   (N,) int32 segment of each vertex, 0 .. S - 1 by first vertex; vertices without faces are segments alone
    raises    ValueError when a face names a vertex that does not exist
    """
    if faces.size and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"faces must name vertices 0 to {len(vertices) - 1}")
    normals = vertex_normals(vertices, faces)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [0, 2]], faces[:, [2, 1]]]).astype(np.int64)
    return felzenszwalb(len(vertices), edges, edge_weights(vertices, normals, edges), k, min_size)


def cloud_superpoints(
    points: np.ndarray, normals: np.ndarray | None = None, k: float = MESH_K, min_size: int = MIN_SIZE
) -> np.ndarray:
    """Partition a point cloud over its 8-nearest-neighbour graph.

    points   (N, 3) float, metres
    normals  (N, 3) float, unit and consistently oriented, or None for local planes (then without a convexity rule,
             because the sign of such a normal is arbitrary)
    returns  (N,) int32 segment of each point, 0 .. S - 1 by first point
    """
    if len(points) < 2:
        return np.zeros(len(points), np.int32)
    neighbors = neighbor_graph(points, NEIGHBORS)
    first = np.repeat(np.arange(len(points), dtype=np.int32), neighbors.shape[1])
    edges = np.stack([first, neighbors.reshape(-1)], axis=1)
    if normals is not None:
        weights = edge_weights(points, normals, edges)
    else:
        normals = plane_normals(points, neighbors)
        weights = 1.0 - np.abs(_edge_dots(normals, edges))
    return felzenszwalb(len(points), edges, weights, k, min_size)


def neighbor_graph(points: np.ndarray, count: int) -> np.ndarray:
    """Return the (N, count) int32 nearest other points of each of (N, 3) points, fewer columns when N <= count."""
    columns = min(count, len(points) - 1) + 1
    tree, index = cKDTree(points), np.empty((len(points), columns), np.int32)
    for first in range(0, len(points), CHUNK):
        some = points[first : first + CHUNK]
        index[first : first + CHUNK] = tree.query(some, columns)[1].reshape(len(some), columns)
    # among coincident points a point need not be its own first neighbour: drop it wherever it is
    is_self = index == np.arange(len(points))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    return index[~is_self].reshape(len(points), columns - 1)


def plane_normals(points: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Return the (N, 3) unit normals, of arbitrary sign, of the planes through each point and its neighbours."""
    patch = np.concatenate([points[:, None], points[neighbors]], axis=1).astype(np.float64)  # (N, 9, 3)
    patch -= patch.mean(axis=1, keepdims=True)
    covariance = np.einsum("nsi,nsj->nij", patch, patch)
    return np.linalg.eigh(covariance)[1][:, :, 0]  # eigenvalues ascend: the first is across the plane


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the (N, 3) float64 means of the unit normals of the faces around each vertex, zero without faces."""
    corner = vertices.astype(np.float64)[faces]  # (F, 3 corners, 3)
    face_normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    face_normals /= np.maximum(np.linalg.norm(face_normals, axis=1, keepdims=True), 1e-30)  # degenerate faces give zero
    owner = faces.reshape(-1)
    count = np.maximum(np.bincount(owner, minlength=len(vertices)), 1)
    columns = [np.bincount(owner, np.repeat(face_normals[:, i], 3), len(vertices)) / count for i in range(3)]
    return np.stack(columns, axis=1)


def edge_weights(points: np.ndarray, normals: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return (E,) float64 weights 1 - n_a . n_b, squared where n_b . (x_b - x_a) > 0: convex creases are weaker."""
    chunks = [edges[first : first + CHUNK] for first in range(0, len(edges), CHUNK)]
    return np.concatenate([np.zeros(0), *(_chunk_weights(points, normals, chunk) for chunk in chunks)])


def _chunk_weights(points, normals, edges) -> np.ndarray:
    weights = 1.0 - _edge_dots(normals, edges)
    step = points[edges[:, 1]].astype(np.float64) - points[edges[:, 0]]
    is_convex = np.einsum("ei,ei->e", normals[edges[:, 1]], step) > 0
    weights[is_convex] **= 2
    return weights


def felzenszwalb(num_vertices: int, edges: np.ndarray, weights: np.ndarray, k: float, min_size: int = 1) -> np.ndarray:
    """Partition a weighted graph exactly as the sequential algorithm does.

    num_vertices  N
    edges         (E, 2) int, vertex indices; duplicates and self loops are allowed
    weights       (E,) float, finite; equal weights are taken in edge order
    k             scale: larger gives larger segments
    min_size      components with fewer vertices are joined along the sorted edges afterwards
    returns       (N,) int32 segment of each vertex, 0 .. S - 1 by first vertex
    """
    order = np.argsort(weights, kind="stable")
    a, b, weights = edges[order, 0], edges[order, 1], np.asarray(weights, np.float64)[order]
    parent, size = np.arange(num_vertices, dtype=np.int32), np.ones(num_vertices, np.int32)
    _join_by_threshold(parent, size, a, b, weights, k)
    parent = _roots(parent)
    a, b = parent[a], parent[b]
    # sizes only grow, so an edge between two components that are large enough now never joins
    is_small = size < min_size
    keep = np.flatnonzero((a != b) & (is_small[a] | is_small[b]))
    _join_small(parent, size, a[keep], b[keep], min_size)
    _, first, segment = np.unique(_roots(parent), return_index=True, return_inverse=True)
    by_first_vertex = np.empty(len(first), np.int32)
    by_first_vertex[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return by_first_vertex[segment.reshape(-1)]


def _edge_dots(normals: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.einsum("ei,ei->e", normals[edges[:, 0]], normals[edges[:, 1]])


def _roots(parent: np.ndarray) -> np.ndarray:
    """Follow parents to the root of every vertex."""
    while not np.array_equal(parent, jumped := parent[parent]):
        parent = jumped
    return parent


def _join_by_threshold(parent, size, a, b, weights, k) -> None:
    """Run the threshold rule over sorted edges (a, b), updating `parent` and, at roots, `size` in place.

    A component that once refuses an edge refuses every later one: weights only grow, and its threshold changes only
    by a join.  So edges of frozen components, and edges inside one component, are dropped in bulk before each chunk,
    and the sequential loop sees little more than the joins: 5 times faster than the loop over all edges.
    """
    threshold = np.full(len(parent), float(k))
    while len(a):
        # frozen: refuses the lightest edge that is left (an edge further on may still pass after a join)
        keep = np.flatnonzero((a != b) & (np.minimum(threshold[a], threshold[b]) >= weights[0]))
        a, b, weights = a[keep], b[keep], weights[keep]
        chunk = max(4096, len(a) // 8)  # ours: few passes over all edges, yet few useless ones in a chunk
        _join_chunk(parent, size, threshold, (a[:chunk], b[:chunk], weights[:chunk]), k)
        a, b, weights = parent[a[chunk:]], parent[b[chunk:]], weights[chunk:]


def _join_chunk(parent, size, threshold, edges, k) -> None:
    """Run the sequential rule over a few edges between roots, on compact lists; leaves those roots at depth one."""
    a, b, weights = edges
    roots, local = _compact(len(parent), a, b)
    up, count, limit = list(range(len(roots))), size[roots].tolist(), threshold[roots].tolist()
    for x, y, w in zip(local[a].tolist(), local[b].tolist(), weights.tolist(), strict=True):
        while up[x] != x:  # find, written out: two calls an edge would double the cost
            up[x] = x = up[up[x]]  # path halving; assigned from left to right
        while up[y] != y:
            up[y] = y = up[up[y]]
        if x != y and w <= limit[x] and w <= limit[y]:
            if count[x] < count[y]:
                x, y = y, x
            up[y] = x
            count[x] += count[y]
            limit[x] = w + k / count[x]
    size[roots], threshold[roots] = count, limit
    parent[roots] = roots[_roots(np.array(up, np.int64))]


def _join_small(parent, size, a, b, min_size) -> None:
    """Join components below `min_size` along sorted edges between roots, updating `parent` in place."""
    roots, local = _compact(len(parent), a, b)
    up, count = list(range(len(roots))), size[roots].tolist()
    for x, y in zip(local[a].tolist(), local[b].tolist(), strict=True):
        while up[x] != x:
            up[x] = x = up[up[x]]
        while up[y] != y:
            up[y] = y = up[up[y]]
        if x != y and (count[x] < min_size or count[y] < min_size):
            up[y] = x
            count[x] += count[y]
    parent[roots] = roots[_roots(np.array(up, np.int64))]


def _compact(num_vertices, a, b) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices that occur in a or b, ascending, and a table from vertex to its place among them."""
    occurs = np.zeros(num_vertices, bool)
    occurs[a] = occurs[b] = True
    roots = np.flatnonzero(occurs)
    local = np.zeros(num_vertices, np.int32)
    local[roots] = np.arange(len(roots), dtype=np.int32)
    return roots, local
