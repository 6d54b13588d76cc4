"""TokenCut: object patches from a normalised cut of the patch similarity graph.

Source: Wang et al. 2022 (arXiv 2202.11539), section 3, and YangtaoWANG95/TokenCut, object_discovery.py. The original
solves the generalised problem (D - A) x = λ D x with a dense solver; here Lanczos iterations compute the one
eigenvector that is needed, of the same matrix in its symmetric form, to machine precision and several times faster.
The graph is symmetric, so only one half of it is computed; where few pairs are joined, only those are multiplied.

A graph in which all pairs of patches are joined, or none is, has no second eigenvector: every vector orthogonal to the
constant one is as good. The object is then the whole image, and the image is reported.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor
from torch.nn import functional as F

from regvit_lightning.runtime.onednn import FastLinear
from regvit_lightning.tasks.discovery.seed_expansion import STRIP, connected_part, tight_boxes

SPARSE = 0.25  # share of joined pairs below which a product over them alone takes less time than a dense one

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """Output of TokenCut for B images.

    Attributes:
        seeds: (B,) indices in the grid, row-major: the largest entry of the eigenvector.
        eigenvectors: (B, h, w) of the second smallest eigenvalue, with the sign that makes the object positive.
        objects: (B, h, w) bool, the connected foreground that contains the seed.
        boxes: (B, 4) x1, y1, x2, y2 in patches, ends excluded.
        uniform: (B,) bool, where all pairs of patches are joined or none is; the seed is then 0, the eigenvector 0, and
            the object the whole image.
    """

    seeds: Tensor
    eigenvectors: Tensor
    objects: Tensor
    boxes: Tensor
    uniform: Tensor


def cut(features: Tensor, threshold: float, weak: float) -> Cut:
    """Compute the eigenvector, partition it at its mean, and select the connected part that contains the seed.

    Args:
        features: (B, h, w, D) float32.
        threshold: patches with a cosine similarity above it are joined by an edge of weight 1.
        weak: weight of all other edges.
    """
    grid, flat = features.shape[1:3], F.normalize(features, dim=-1).flatten(1, 2)
    eigenvectors = [_eigenvector(joined_pairs(one, threshold), weak) for one in flat]
    vectors = torch.from_numpy(np.stack(eigenvectors)).to(features.device)
    uniform = (vectors == 0).all(dim=1)
    seeds = torch.where(uniform, 0, vectors.abs().argmax(dim=1))
    mean = vectors.mean(dim=1, keepdim=True)
    sign = (vectors - mean).gather(1, seeds[:, None]).sign()
    foreground = (sign * (vectors - mean) > 0) | uniform[:, None]
    objects, _ = connected_part(seeds, foreground.unflatten(1, grid))
    return Cut(seeds, (sign * vectors).unflatten(1, grid), objects, tight_boxes(objects), uniform)


def joined_pairs(features: Tensor, threshold: float) -> npt.NDArray[np.bool_]:
    """Pairs of patches (N, N) whose dot product is above the threshold, from features (N, D)."""
    joined = np.empty((len(features), len(features)), dtype=bool)
    for first in range(0, len(features), STRIP):
        rows, rest = slice(first, first + STRIP), slice(first, None)
        with FastLinear():
            above = (F.linear(features[rows], features[rest]) > threshold).cpu().numpy()
        joined[rest, rows], joined[rows, rest] = above.T, above
    return joined


def _eigenvector(joined: npt.NDArray[np.bool_], weak: float) -> Vector:
    """`second_eigenvector` (N,), or zeros where all pairs of different patches are joined or none is."""
    patches = len(joined)
    edges = np.count_nonzero(joined) - int(joined.trace())
    return np.zeros(patches) if edges in (0, patches * (patches - 1)) else second_eigenvector(joined, weak)


def _sparse(joined: npt.NDArray[np.bool_]) -> csr_array:
    """The same pairs as a sparse matrix of float64, several times faster than by its constructor."""
    places, ends = np.flatnonzero(joined), np.count_nonzero(joined, axis=1).cumsum()
    columns, starts = (part.astype(np.int32) for part in (places % len(joined), np.append(0, ends)))
    return csr_array((np.ones(len(places)), columns, starts), joined.shape)


def second_eigenvector(joined: npt.NDArray[np.bool_], weak: float) -> Vector:
    """Generalised eigenvector x (N,) of (D - A) x = λ D x with the second smallest λ.

    With y = D^½ x the smallest λ become the largest eigenvalues 1 - λ of D^-½ A D^-½. The first of them belongs to
    y = D^½ 1 and is deflated, so that the second comes first.

    Args:
        joined: (N, N) edges of weight 1, symmetric; all others have weight `weak`.
    """
    few = np.count_nonzero(joined) < SPARSE * joined.size
    edges = _sparse(joined) if few else joined.astype(np.float64)

    def weighted(vector: Vector) -> Vector:
        return (1 - weak) * (edges @ vector) + weak * vector.sum()

    root = np.sqrt(weighted(np.ones(len(joined))))
    first = root / np.linalg.norm(root)

    def product(vector: Vector) -> Vector:
        flat = vector.ravel()
        return weighted(flat / root) / root - first * (first @ flat)

    start = np.random.default_rng(0).standard_normal(len(root))
    operator = LinearOperator(joined.shape, matvec=product, dtype=np.float64)
    try:  # a graph with few distinct eigenvalues makes ARPACK start again from random numbers
        return eigsh(operator, k=1, which="LA", v0=start, rng=0)[1][:, 0] / root
    except ArpackError:  # no convergence, as with several equal eigenvalues: the dense solver always has an answer
        last = len(root) - 1
        deflated = np.where(joined, 1.0, weak) / np.outer(root, root) - np.outer(first, first)
        return eigh(deflated, subset_by_index=[last, last])[1][:, 0] / root
