"""The pass over images that measures position bias, of a model as it is or with its position embedding at 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from regvit_lightning.analysis.content_shift import Matches, match
from regvit_lightning.analysis.locality import Locality, LocalitySums
from regvit_lightning.analysis.position_probe import RidgeProbe
from regvit_lightning.data.transforms import normalise
from regvit_lightning.frozen.module import FrozenModule
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.tokens import Tokens

TRAIN, HELD_OUT, TEST, WIDE = range(4)  # loaders
GROUPS = 10  # of test images, left out in turn for the interval of the share of variance


def stages_probed(backbone: Backbone) -> list[int]:
    """Stages with a probe: after each quarter of the blocks, and after the final norm, `depth + 1`."""
    if not backbone.is_plain_vit:
        return [backbone.depth + 1]
    quarters = {-(-backbone.depth * quarter // 4) for quarter in (1, 2, 3, 4)}
    return [*sorted(quarters), backbone.depth + 1]


class PositionPass(FrozenModule):
    """Train images fit the probes, held-out ones choose their penalty, test images are measured, wide ones are shifted.

    Args:
        backbone, precision: as for `FrozenModule`.
        crop: side in pixels of the crops.
        shifts: patches by which the second crop of a wide image lies further to the right, ascending.

    Attributes:
        probes: by stage, see `stages_probed`.
        norms: (N, h, w) norms of the patches of the test images before the final norm, or of the output of a model
            whose blocks are not accessible; available after test.
        matches: by shift, of all wide images, available after test.
    """

    norms: Tensor
    matches: dict[int, Matches]

    def __init__(self, backbone: Backbone, precision: str, crop: int, shifts: Sequence[int]) -> None:
        super().__init__(backbone, precision)
        self.crop, self.shifts, self.last = crop, list(shifts), backbone.depth + 1
        self.probes = {stage: RidgeProbe() for stage in stages_probed(backbone)}
        self._locality, self._without = LocalitySums(), [LocalitySums() for _ in range(GROUPS)]
        self._norms: list[Tensor] = []
        self._matches: dict[int, list[Matches]] = {shift: [] for shift in self.shifts}
        self._seen = 0

    def test_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images = normalise(batch[0], self.mean, self.std)
        if dataloader_idx == WIDE:
            self._shift(images)
            return
        stages = self._stages(images, dataloader_idx == TEST)
        for stage, probe in self.probes.items():
            add = {TRAIN: probe.train, HELD_OUT: probe.held_out, TEST: probe.test}[dataloader_idx]
            add(stages[stage].patches)
        if dataloader_idx == TEST:
            before = stages.get(self.last - 1, stages[self.last])
            self._norms.append(before.patches.norm(dim=-1).cpu())
            self._leave_out(stages[self.last])

    def _stages(self, images: Tensor, measured: bool) -> dict[int, Tokens]:
        """Tokens of the stages with probes; those of all stages are added to the locality where `measured`."""
        stages: dict[int, Tokens] = {}

        def see(stage: int, tokens: Tokens) -> None:
            own = Tokens(tokens.cls, tokens.registers, tokens.patches.float())
            if measured:
                self._locality.add(stage, own)
            if stage in self.probes:
                stages[stage] = own

        with self.frozen.autocast(images):
            if self.frozen.backbone.is_plain_vit:
                self.frozen.backbone.walk(images, see)
            else:
                see(self.last, self.frozen.backbone(images))
        return stages

    def _leave_out(self, tokens: Tokens) -> None:
        """Add each test image to the sums of all groups but its own."""
        groups = torch.arange(self._seen, self._seen + len(tokens.patches), device=tokens.patches.device) % GROUPS
        self._seen += len(tokens.patches)
        for group, sums in enumerate(self._without):
            own = tokens.patches[groups != group]
            if len(own):
                sums.add(self.last, Tokens(None, tokens.registers[groups != group], own))

    def _shift(self, images: Tensor) -> None:
        """Match the patches of a crop at the left of wide images to crops that lie further to the right."""
        patch = self.frozen.backbone.patch_size
        first, *others = (
            self.frozen(images[..., shift * patch : shift * patch + self.crop])[0].patches
            for shift in (0, *self.shifts)
        )
        for shift, second in zip(self.shifts, others, strict=True):
            self._matches[shift].append(match(first, second, shift))

    def on_test_epoch_end(self) -> None:
        self.norms = torch.cat(self._norms)
        self.matches = {shift: _joined(parts) for shift, parts in self._matches.items()}

    @property
    def locality(self) -> Locality:
        """Locality of the test images after every block, see `Locality`."""
        return self._locality.locality()

    def share_without(self) -> list[float]:
        """Share of the variance by position after the final norm, in percent, without each of the groups of images."""
        return [100 * float(sums.locality().shares()["position"][-1]) for sums in self._without]


def _joined(parts: Sequence[Matches]) -> Matches:
    names = ("content", "position", "same_content", "same_position", "others")
    return Matches(**{name: torch.cat([getattr(part, name) for part in parts]).cpu() for name in names})
