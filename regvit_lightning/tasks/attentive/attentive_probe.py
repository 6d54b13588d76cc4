"""ImageNet attentive probe on frozen tokens: heads of CAPI and of efficient probing, selected on held-out train.

Source: Darcet et al. 2025 (CAPI, arXiv 2502.08769) and capi/eval_classification.py for the recipe and the grid of 10
learning rates × 3 weight decays; Psomas et al. 2026 (efficient probing, arXiv 2506.10178) for the second kind of head,
which is trained here by CAPI's recipe. What the heads attend to is measured, too: the mass on outliers and registers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regvit_lightning.data.imagenet import ImageNet, test_files, train_files
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.data.module import Loading
from regvit_lightning.figures import attentive as figures
from regvit_lightning.frozen import dense
from regvit_lightning.frozen.contract import Metric, Outcome, RunOptions
from regvit_lightning.frozen.head_grid import training
from regvit_lightning.frozen.trainer import Tester, fit
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.runtime import seeds
from regvit_lightning.statistics import accuracy, accuracy_by_class, accuracy_interval, bootstrap
from regvit_lightning.tasks.attentive.probe import (
    BOTH,
    MEAN,
    REGISTERS,
    AttentiveProbe,
    AttentiveSettings,
    Seen,
    Variant,
    masses,
)
from regvit_lightning.work import ImageCounts, Work

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "top1": Metric(),
    "top1_best_on_test": Metric(),
    "top1_capi": Metric(),
    "top1_ep": Metric(),
    "outlier_mass_capi": Metric(better=-1),
    "outlier_mass_ep": Metric(better=-1),
}
READS = "imagenet"
TRAINS_HEAD = True
FOOTNOTE = ("view", "train_view", "head_chosen_on", "outliers")
SETTINGS = AttentiveSettings
MEAN_FLOOR = "the mean patch, linear, same grid"


def work(settings: AttentiveSettings, images: ImageCounts) -> Work:
    """Work of the passes over the images, see `HeadGridSettings.work`."""
    return settings.work(images)


def run(
    backbone: Backbone,
    data: DataSettings,
    settings: AttentiveSettings,
    how: RunOptions = RunOptions(),  # noqa: B008
) -> Outcome:
    """Top-1 on test of the heads selected on held-out train (of equals the first), and what they attend to.

    Raises:
        DataError: the data is missing, incomplete or unreadable.
        SettingsError: a width of the tokens that heads or queries do not divide.
    """
    files, test = train_files(data), test_files(data)
    train, held_out = files.split(settings.held_out, how.seed)
    view, loading = settings.view(), Loading(settings.workers, settings.device_batch)
    images = ImageNet(loading, validation=[(held_out, view)], test=[(test, view)])
    with seeds.drawn_from(how.seed, "heads"):
        module = AttentiveProbe(backbone, settings, len(files.classes))
    fit(module, training(module, settings, train, loading, how), settings.steps, how)
    module.shown = dense.examples(len(test))
    trainer = Tester(how)
    trainer.validate(module, images, verbose=False)
    trainer.test(module, images, verbose=False)
    return _outcome(module, len(train), test.classes, how.seed)


def _outcome(module: AttentiveProbe, train_images: int, classes: Sequence[str], seed: int) -> Outcome:
    settings, held_out = module.settings, len(module.held_out[1])
    on_held_out, on_test = accuracy(*module.held_out), accuracy(*module.test)
    attentive = module.columns(module.variants[-1]).start  # columns of attentive heads; those of the floor are last
    chosen, best = int(on_held_out[:attentive].argmax()), int(on_test[:attentive].argmax())
    columns = {"top1": chosen, "top1_best_on_test": best, **_chosen_columns(module)}
    right = {name: 100.0 * (module.test[0][:, column] == module.test[1]) for name, column in columns.items()}
    attended = _attended(module)
    scores = {**right, **attended}
    return Outcome(
        metrics={
            **{name: values.double().mean().item() for name, values in scores.items()},
            "top1_held_out": on_held_out[chosen].item(),
            "outlier_share": _outlier_share(module),
        },
        images=len(module.test[1]),
        intervals={
            **{name: accuracy_interval(values, seed) for name, values in right.items() if name != "top1_best_on_test"},
            **{name: bootstrap(values, seed) for name, values in attended.items()},
        },
        scores={name: scores[name] for name in METRICS},
        per_class=accuracy_by_class(right["top1"], module.test[1], classes),
        floors=_floors(module, on_test),
        protocol={
            "head": vars(module.grid[chosen]),
            "head_best_on_test": vars(module.grid[best]),
            "heads_of_kinds": {name: vars(module.grid[column]) for name, column in module.chosen.items()},
            "head_chosen_on": settings.chosen_on(held_out),
            "held_out_images": held_out,
            "caveat": settings.caveat(f"{attentive} heads", held_out),
            "heads": attentive,
            "parameters": _parameters(module),
            "train_images": train_images,
            "batch_size": settings.batch_size,
            "train_view": settings.train_view_in_words("tokens"),
            "view": settings.view_in_words(),
            "outliers": f"{module.last_patches.outliers_in_words('held-out images')}: above {module.cutoff:.4g}",
        },
        picture=_picture(module),
    )


def _chosen_columns(module: AttentiveProbe) -> dict[str, int]:
    return {f"top1_{one.name}": module.chosen[one.name] for one in module.attentive}


def _attended(module: AttentiveProbe) -> dict[str, Tensor]:
    """Mass on outliers and on registers in percent (N,) of each variant that could put some there, by metric."""
    attended = {}
    for one in module.attentive:
        on_outliers, on_registers = torch.cat(module.masses[one.name]).T
        if one.inputs != REGISTERS:
            attended[f"outlier_mass_{one.name}"] = on_outliers
        if one.inputs == BOTH:
            attended[f"register_mass_{one.name}"] = on_registers
    return attended


def _outlier_share(module: AttentiveProbe) -> float:
    return 100 * torch.cat(module.outlier_shares).mean().item()


def _floors(module: AttentiveProbe, on_test: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy of a linear head of the mean patch, chosen as the others are, and the masses of uniform attention."""
    accuracies, uniform = ("top1", "top1_capi", "top1_ep"), ("outlier_mass_capi", "outlier_mass_ep")
    return {
        "chance": dict.fromkeys(accuracies, 100 / module.classes),
        MEAN_FLOOR: dict.fromkeys(accuracies, on_test[module.chosen[MEAN]].item()),
        "uniform attention": dict.fromkeys(uniform, _outlier_share(module)),
    }


def _parameters(module: AttentiveProbe) -> dict[str, int]:
    """Number of parameters of one head of each kind."""
    counts = {}
    for one, group in zip(module.variants, module.groups, strict=True):
        counts[one.kind] = sum(parameter.numel() for parameter in group.heads[0].parameters())
    return counts


def _picture(module: AttentiveProbe) -> "Figure":
    """Images, norms and the attention of the chosen heads that read patches."""
    shown = [one for one in module.attentive if one.inputs != REGISTERS]
    rows = [_row(module, one, shown) for one in module.seen]
    return figures.attention_examples(rows)


def _row(module: AttentiveProbe, seen: Seen, shown: Sequence[Variant]) -> figures.Row:
    outliers, maps = seen.norms > module.cutoff, []
    for one in shown:
        shares, first = seen.shares[one.name], module.registers if one.inputs == BOTH else 0
        on_outliers, on_registers = masses(shares[None], outliers.flatten()[None], one.inputs, module.registers)[
            0
        ].tolist()
        maps.append(
            figures.HeadMap(
                title=f"{one.kind.upper()}{', with registers' if one.inputs == BOTH else ''}",
                shares=shares[first:].view(outliers.shape).numpy(),
                outliers=on_outliers,
                registers=on_registers if one.inputs == BOTH else None,
                right=seen.right[one.name],
            )
        )
    return figures.Row(seen.pixels.permute(1, 2, 0).numpy(), seen.norms.numpy(), outliers.numpy(), maps)
