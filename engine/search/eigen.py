"""Eigenvectors of a symmetric matrix, the same bits whatever number of threads a process computes with.

LAPACK's `eigh` and products of matrices round otherwise with two threads than with one, from some 100 (products) or
200 rows (`eigh`) on, and workers of Ray have another number of threads than a process of its own. Here nothing of
BLAS is used that shares work: reflections in NumPy, and QL steps of LAPACK on the tridiagonal matrix (`stev`).
"""

from __future__ import annotations

import numpy as np

from engine.core.types import Float64


def eigen(matrix: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues (K,), ascending, and eigenvectors, the columns of (K, K), of a symmetric matrix (K, K).

    Householder's reduction to a tridiagonal matrix T = Q' A Q (Golub and Van Loan, "Matrix Computations", 4th ed.,
    algorithm 8.3.1), the eigenvectors of T, and these multiplied by Q. Some K^3 operations: 1.5 ms for K = 41, 6 ms for
    100 and 80 ms for 300.
    """
    from scipy.linalg import eigh_tridiagonal  # 0.25 s, for which other optimisers need not wait

    left = matrix.copy()
    count = len(left)
    beside = np.zeros(max(count - 1, 0))
    reflections = np.zeros_like(left)
    for k in range(count - 2):
        column = left[k + 1 :, k]
        beside[k] = -np.copysign(np.sqrt((column * column).sum()), column[0])
        normal = column.copy()
        normal[0] -= beside[k]
        length = np.sqrt((normal * normal).sum())
        if length == 0:
            continue
        normal /= length
        reflections[k, k + 1 :] = normal
        rest = left[k + 1 :, k + 1 :]
        image = multiply(rest, normal)
        image -= (image * normal).sum() * normal
        rest -= np.multiply.outer(2 * normal, image)
        rest -= np.multiply.outer(image, 2 * normal)
    if count > 1:
        beside[-1] = left[-1, -2]
    values, vectors = eigh_tridiagonal(np.diag(left).copy(), beside, lapack_driver="stev")
    rows = np.ascontiguousarray(vectors.T)
    for k in reversed(range(count - 2)):
        normal = reflections[k, k + 1 :]
        part = rows[:, k + 1 :]
        part -= np.multiply.outer(multiply(part, normal), 2 * normal)
    return values, rows.T


def multiply(matrix: Float64, vector: Float64) -> Float64:
    """(n, K) times (K,), without BLAS."""
    found: Float64 = np.einsum("ij,j->i", matrix, vector)
    return found
