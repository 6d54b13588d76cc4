"""A linear probe of the position of a patch: row and column by ridge regression in closed form, scored by R².

After the position predictor of RADIO's examples (NVlabs); `local_probes.PositionProbe` is the classifier of Darcet et
al. 2023. R² is 0 for the middle of the image everywhere and 1 for the true position.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from regvit_lightning.analysis.local_probes import PENALTIES, NormalEquations
from regvit_lightning.analysis.logistic import Linear


def coordinates(rows: int, columns: int) -> Tensor:
    """Row and column (rows × columns, 2) of the middle of each patch in 0..1, row-major, float64."""
    down, across = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in (rows, columns))
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).flatten(0, 1)


class RidgeProbe:
    """Ridge regression of row and column: first train, then held-out images, on which the penalty is chosen, then test.

    Memory is that of two `NormalEquations`, (D + 3)² float64 each.

    Attributes:
        errors: squared errors (n, 2) of the patches of each test image, summed over its patches, in order.
    """

    def __init__(self) -> None:
        self._train, self._held_out = NormalEquations(), NormalEquations()
        self._model: Linear | None = None
        self.errors: list[Tensor] = []
        self._spread = torch.ones(2, dtype=torch.float64)

    def train(self, patches: Tensor) -> None:
        """Add the patches (B, h, w, D) of train images."""
        self._add(self._train, patches)

    def held_out(self, patches: Tensor) -> None:
        """Add the patches of held-out train images."""
        self._add(self._held_out, patches)

    def test(self, patches: Tensor) -> None:
        """Score the patches of test images; the first ones fit the model."""
        if self._model is None:
            self._model = self._fit(PENALTIES)
        targets = coordinates(*patches.shape[1:3]).to(patches.device)
        self._spread = (targets - targets.mean(dim=0)).square().sum(dim=0).cpu()
        predicted = self._model(patches.flatten(1, 2))
        self.errors.append((predicted - targets).square().sum(dim=1).cpu())

    def r2(self) -> Tensor:
        """R² of each test image (N,), the mean of that of rows and that of columns; its mean is that of all images."""
        return (1 - torch.cat(self.errors) / self._spread).mean(dim=1)

    def _add(self, equations: NormalEquations, patches: Tensor) -> None:
        targets = coordinates(*patches.shape[1:3]).to(patches.device).repeat(len(patches), 1)
        equations.add(patches.flatten(0, 2), targets)

    def _fit(self, penalties: Sequence[float]) -> Linear:
        models = self._train.solve(penalties)
        errors = [self._held_out.squared_error(model) for model in models]
        both = NormalEquations()
        for part in (self._train, self._held_out):
            both.add_sums(part.rows, part.moments, part.features)
        return both.solve([penalties[errors.index(min(errors))]])[0]
