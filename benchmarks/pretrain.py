"""Pretrain a register ViT: `python -m benchmarks.pretrain model=vitb_reg16 recipe=deit3 data=full`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import command, terminal
from benchmarks.data.rendering import render
from benchmarks.throughput import block_speed, duration, flops, shape_of
from regvit_lightning.data import layout
from regvit_lightning.models import arms, names
from regvit_lightning.settings import SEEDS, check, setting
from regvit_lightning.values import durations, texts

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from regvit_lightning.models.backbone import Backbone
    from regvit_lightning.pretrain.fit import Run

DESCRIPTION = """Pretrains a register ViT. Given again, it continues where it stopped, or says that it is done.
Writes <runs>/<data>/<id>/seed<k>/: last.ckpt, log/ (TensorBoard), augmented.png, norms.csv with norms.png, sinks.png
and locality.png (norms, attention sinks and locality of patches in every block against the step),
backbone.safetensors; and <results>/<data>/curves/<id>.seed<k>.csv: the loss and what else is logged. The id, by which
the model is evaluated, is <recipe>-<model>, or <recipe>+<tag>-<model> for a run with settings of its own that is kept
beside the others. trainer.<name>=<value> is an option of Lightning's Trainer, such as trainer.fast_dev_run=true,
trainer.max_time=00:04:00:00 or trainer.profiler=simple."""


@dataclass
class Pretrain:
    """Settings of the program; further arguments are settings of the recipe."""

    model: str = setting(f"{names.grammar()}, as vitb_reg16 or vitl14_reg4")
    arm: str = setting(f"none, or a change of the model that enters its name: {', '.join(arms.names())}", "")
    recipe: str = setting("a file of configs/recipes", "deit3")
    tag: str = setting("name of a run with settings of its own: lr2e-3 makes deit3+lr2e-3-vitb_reg16", "")
    data: str = setting("a file of configs/data, or a folder with train/<class>/<image>", "mini")
    variant: str = setting("overlay of the recipe; 'auto' takes the data's own", "auto")
    seed: int = setting("of everything drawn", 0, within=SEEDS)
    devices: int = setting("GPUs of each machine to train on", 1, within="[1, 1024]")
    nodes: int = setting("machines with so many GPUs each", 1, within="[1, 1e5]")
    accelerator: str = setting("auto: GPUs where there are any; cpu: so many processes on the processor", "auto")
    runs: str = setting("folder of the runs", "runs", texts.folder)
    results: str = setting("folder of the results", "results", texts.folder)
    force: bool = setting("start again, whatever the folder holds", False)
    launcher: str = setting("local, or slurm: submit the command as a job", "local")
    partition: str = setting("of the Slurm cluster; empty takes its default", "")
    hours: float = setting(
        "time limit of a Slurm job; after it the job is queued again and continues",
        24.0,
        durations.hours,
        within="(0, 8760]",
    )


def main(options: Pretrain, words: list[str]) -> None:
    """Run the program."""
    with command.importing():
        from benchmarks import progress
        from regvit_lightning import settings
        from regvit_lightning.models import EXPORT, vit
        from regvit_lightning.pretrain import fit, norms_callback, trainer_options
        from regvit_lightning.pretrain.curve import Curve
        from regvit_lightning.runtime import atomic, hardware

    options = replace(options, model=names.with_arm(options.model, options.arm), arm="")
    hardware.choose_accelerator(options.accelerator, options.devices if options.launcher == "local" else 1)
    data = layout.resolve(options.data)
    variant = data.variant if options.variant == "auto" else options.variant
    _, recipe = settings.load_settings("recipes", options.recipe, variant, words, command.keys(Pretrain))
    identity = names.model_id(options.recipe, options.tag, options.model)
    name = str(identity)
    folder = Path(options.runs) / data.name / name / f"seed{options.seed}"
    run = fit.Run(options.model, identity.label, recipe, data, options.seed, folder, options.devices, options.nodes)
    if fit.finished(run) and not options.force:
        if not norms_callback.is_drawn(folder):
            norms_callback.draw(folder)
        terminal.say_once(f"pretrain: {name} (seed {options.seed}) is done: {folder / EXPORT}")
        return
    vit.parse_name(options.model)
    progress.quiet()
    _check_launcher(options)
    if options.launcher == "local" and hardware.first_process():
        terminal.show(_opening(run, options))
    render(data)
    if options.launcher == "slurm":
        _submit(run, options, words)
        return
    curve = Path(options.results) / data.name / "curves" / f"{name}.seed{options.seed}.csv"
    curves = [] if "limit_train_batches" in recipe.trainer else [Curve(curve)]  # a partial run is not a result
    callbacks = [progress.Progress(f"pretrain {name}"), *curves, *_watching(run)]
    if hardware.first_process():
        atomic.remove_leftovers(curve.parent)
        atomic.check_writable(curve)
    exported = fit.fit(run, callbacks, options.force)
    unreadable = folder / "unreadable.txt"
    if unreadable.exists():
        count = len(unreadable.read_text(encoding="utf-8").splitlines())
        print(f"pretrain: {count} unreadable images were replaced by others; they are listed in {unreadable}")
    if exported is None:
        why = trainer_options.in_words(recipe.trainer)
        print(f"pretrain: ended before its last step ({why}); no weights are exported; without it, it trains in full")
        return
    logged = f"; more curves: tensorboard --logdir {folder}/log" if recipe.logger == "tensorboard" else ""
    print(f"pretrain: weights in {exported}; curve in {curve}{logged}")


def _opening(run: "Run", options: Pretrain) -> str:
    """Opening line: model, data, device and expected duration of the training, and where to get real data."""
    chosen, shape, images = run.settings, _shape(run), _images(run)
    parameters = sum(value.numel() for value in shape.parameters()) / 1e6
    steps, here = chosen.steps_in_all(images), options.launcher == "local"
    parts = [
        f"pretrain: {run.recipe}-{run.model}, {parameters:.1f} M parameters, {chosen.image_size} px",
        f"data {run.data.name}: {images:,} {'rendered ' if run.data.rendered else ''}images",
        f"{steps:,} steps of {chosen.batch_size:,} images on {_devices(run, here)}",
    ]
    if here:
        parts.append(_expected(run, shape, images))
    if (run.folder / "last.ckpt").exists() and not options.force:
        parts.append("continues from its checkpoint")
    if run.data.rendered:
        parts.append("real data: DATA=full DATA_ROOT=<folder>")
    return "; ".join(parts)


def _images(run: "Run") -> int:
    """Number of images of one epoch: rendered, as published, or as listed on disk."""
    from benchmarks.data.image_counts import Counts
    from regvit_lightning.pretrain import fit

    if run.data.rendered or run.settings.images in run.data.counts:
        return Counts(run.data, {})[run.settings.images][0]
    return len(fit.recipe_class(run.settings.module).files(run.settings, run.data))


def _devices(run: "Run", here: bool) -> str:
    from regvit_lightning.runtime import hardware

    if not here:
        return f"{run.nodes} × {run.devices} devices of the cluster"
    kind = "GPU" if hardware.accelerator() == "cuda" else "CPU"
    return f"{f'{run.world} × ' if run.world > 1 else ''}{kind} {hardware.device_name()}"


def _shape(run: "Run") -> "Backbone":
    """The backbone without its weights."""
    import torch

    from regvit_lightning.models import vit
    from regvit_lightning.models.vit_backbone import ViTBackbone

    chosen = run.settings
    with torch.device("meta"):
        model = vit.build(run.model, image_size=chosen.image_size, swiglu=getattr(chosen, "swiglu", False))
    return ViTBackbone(model, run.model, chosen.image_size, (0.0,) * 3, (1.0,) * 3)


def _expected(run: "Run", shape: "Backbone", images: int) -> str:
    """Expected duration of the whole training at the speed of one block on this machine."""
    from regvit_lightning.pretrain import fit

    work = fit.recipe_class(run.settings.module).work(run.settings, {run.settings.images: [images]})
    most = max(work.passes, key=lambda images: flops(shape, images))
    speed = block_speed(shape_of(shape, most), run.settings.device_batch, run.settings.precision)
    seconds = sum(flops(shape, images) for images in work.passes) / speed / run.world
    return f"about {duration(seconds)} (estimated from one block, measured here; loading images not counted)"


def _check_launcher(options: Pretrain) -> None:
    from regvit_lightning.runtime import hardware

    known = options.launcher in ("local", "slurm")
    check(known, f"launcher={options.launcher}: expected local or slurm")
    alone = options.launcher == "local" and not hardware.started_by_cluster()
    advice = "give LAUNCHER=slurm, or start the command by srun or torchrun on each machine"
    check(options.nodes == 1 or not alone, f"nodes={options.nodes}: {advice}")


def _submit(run: "Run", options: Pretrain, words: list[str]) -> None:
    """Submit the same command as a Slurm job; mistakes are reported now and not after hours in a queue."""
    from benchmarks import launch
    from regvit_lightning.data.module import accumulation
    from regvit_lightning.pretrain import fit

    folder = run.folder / "slurm"
    if job_number := launch.active(folder):
        print(f"pretrain: job {job_number} already trains it; logs in {folder}")
        return
    accumulation(run.settings.batch_size, run.world, run.settings.device_batch)
    own = [f"{key}={value}" for key, value in {**asdict(options), "launcher": "local", "force": False}.items()]
    job = launch.SlurmJob(
        program="pretrain",
        words=[*own, *words],
        folder=folder,
        nodes=run.nodes,
        devices=run.devices,
        cpus=run.settings.workers + 1,
        hours=options.hours,
        partition=options.partition,
    )
    executor = launch.prepare(job)
    with fit.claimed(run, options.force):
        print(f"pretrain: {launch.advice(job, launch.submit(job, executor))}")
    terminal.show(_opening(run, options))


def _watching(run: "Run") -> list["Callback"]:
    """Callbacks that measure norms, if the recipe enables them."""
    from regvit_lightning.analysis.outliers import Rules
    from regvit_lightning.pretrain.norms_callback import NormsDuringTraining, fixed_images
    from regvit_lightning.pretrain.recipe import recipe_class

    if not run.settings.norms_every:
        return []
    files = recipe_class(run.settings.module).files(run.settings, run.data)
    images = fixed_images(files, run.settings.image_size)
    return [NormsDuringTraining(images, run.folder, run.settings.norms_every, Rules())]


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("pretrain", DESCRIPTION, Pretrain, main, group="recipes")


if __name__ == "__main__":
    cli()
