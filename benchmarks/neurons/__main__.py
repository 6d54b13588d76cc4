"""Find the register neurons of a model: `python -m benchmarks.neurons model=timm/vit_base_patch16_clip_224.laion2b`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import command, terminal
from benchmarks.data.rendering import render
from benchmarks.tables import markdown
from regvit_lightning.data import layout
from regvit_lightning.data.layout import DataSettings
from regvit_lightning.invocation import invocation
from regvit_lightning.settings import SEEDS, check, setting
from regvit_lightning.values import texts

if TYPE_CHECKING:
    from benchmarks.neurons.passes import Passes
    from regvit_lightning.analysis.neuron_search import Effect, Outliers, Scored
    from regvit_lightning.models.register_neurons import RegisterNeurons
    from regvit_lightning.models.vit_backbone import ViTBackbone

DESCRIPTION = """Finds the MLP neurons that write the artifacts of a model (Jiang et al. 2025, arXiv 2506.08010) on
train images, and keeps them in <runs>/<data>/neurons/. MODEL=<the model>+ttr then has a test-time register that takes
them over, MODEL=<the model>+bias the mean of its key and value instead. Refuses where no norm exceeds 3 × the median:
there is nothing to repair. The published settings: score=activation, and for DINOv2-L detect=-2 threshold=150
top_block=17 top_k=50, for OpenCLIP-B/16 detect=-1 threshold=75 top_block=5 top_k=10."""

PER_LINE = 12  # neurons of a line of the terminal


@dataclass
class FindNeurons:
    """Settings of the program."""

    model: str = setting("as for make eval: a plain ViT, without +ttr")
    data: str = setting("a file of configs/data or a path of one, or a folder with train/ and val/ classes", "mini")
    images: int = setting("train images, evenly spread over the classes", 500, within="[1, 1e6]")
    size: int | None = setting("side of the crop in pixels; not given, the model's own", None, within="[1, 1e4]")
    score: str = setting("contrast: mean |activation| at outliers minus elsewhere; activation: the first", "contrast")
    detect: int | None = setting(
        "block after which outliers are looked for, from 0, or negative from the end; not given, the one with the "
        "largest norm relative to the median",
        None,
        within="[-1000, 1000]",
    )
    threshold: float | None = setting("norm of an outlier there; not given, 3 × the median", None, within="(0, 1e9]")
    first_block: int = setting("first block whose neurons are taken, from 0", 0, within="[0, 1000]")
    top_block: int | None = setting(
        "last such block; not given, the first after which half of the outliers have their norm",
        None,
        within="[-1000, 1000]",
    )
    top_k: int | None = setting("neurons to take; not given, 50 from width 1024 on, else 10", None, within="[1, 1e5]")
    known: str = setting("a known list in place of a search: a file of configs/neurons, or the path of one", "")
    seed: int = setting("of a trained or untrained model", 0, within=SEEDS)
    device_batch: int = setting("images per forward pass", 16, within="[1, 1e5]")
    workers: int = setting("decoding processes", 2, within="[0, 256]")
    accelerator: str = setting("auto: a GPU where there is one; cpu", "auto")
    runs: str = setting("folder of the runs", "runs", texts.folder)


def main(options: FindNeurons, words: list[str]) -> None:
    """Run the program."""
    from benchmarks import progress
    from benchmarks.neurons.passes import Passes
    from regvit_lightning.analysis import neuron_search
    from regvit_lightning.models import register_neurons
    from regvit_lightning.runtime import atomic, hardware

    check(options.score in neuron_search.SCORES, f"score={options.score}: expected {' or '.join(neuron_search.SCORES)}")
    hardware.choose_accelerator(options.accelerator, 1)
    data = layout.resolve(options.data)
    trained = Path(options.runs) / (data.trained_on or data.name)
    plain = _loaded(options, trained)
    known = _known(options, plain)
    file = register_neurons.path(options.model, trained, options.seed)
    atomic.check_writable(file)
    render(data)
    progress.quiet()
    passes = Passes(plain, data, options)
    print(f"neurons: {plain.name}: {passes.in_words}")

    detected, before = passes.detect()
    print(f"neurons: {_outliers_in_words(detected, plain.depth)}")
    scored = passes.scored(detected)
    chosen = _of_list(scored, known) if known else scored[: neuron_search.top_k(passes.search, plain.embed_dim)]
    source = known.source if known else f"make neurons, {passes.in_words}, score {options.score}"
    neurons = neuron_search.listed(chosen, plain.weights_fingerprint, source)
    terminal.show("\n".join(["", *_neurons_in_words(neurons, chosen), ""]))

    effects, means = passes.effects(neurons, detected)
    effects = {plain.name: before, **effects}
    print(markdown.for_terminal(_effects_table(effects)) + "\n")
    register_neurons.write(file, neurons, plain.name, _facts(options, data, passes, detected, chosen, effects))
    register_neurons.write_means(file.with_suffix(register_neurons.MEANS), neurons, means)
    print(f"neurons: {len(neurons)} kept in {file}")
    for line in _advice(options, detected, len(neurons), effects):
        print(f"neurons: {line}")


def _loaded(options: FindNeurons, trained: Path) -> "ViTBackbone":
    """The plain model, with blocks whose neurons can be read."""
    from regvit_lightning.models import names
    from regvit_lightning.models.sources import load_backbone
    from regvit_lightning.models.vit_backbone import ViTBackbone

    plain, intervention = names.intervention(options.model)
    check(intervention is None, f"model={options.model}: neurons are those of the model itself: give model={plain}")
    backbone = load_backbone(options.model, trained, options.seed, image_size=options.size or 224)
    backbone.require_plain_vit()
    assert isinstance(backbone, ViTBackbone), "required just before"
    backbone.readers()
    return backbone


def _known(options: FindNeurons, plain: "ViTBackbone") -> "RegisterNeurons | None":
    """The list of `known=`, or None for a search."""
    from regvit_lightning.models import interventions, register_neurons

    if not options.known:
        return None
    published = register_neurons.published()
    known = register_neurons.read(published.get(options.known, Path(options.known)))
    interventions.require_there(known, plain.readers(), plain.name)
    return known


def _of_list(scored: "list[Scored]", known: "RegisterNeurons") -> "list[Scored]":
    """The neurons of a known list, with their scores, in descending order of these."""
    wanted = {(block, neuron) for block, neurons in known.blocks.items() for neuron in neurons}
    return [one for one in scored if (one.block, one.neuron) in wanted]


# ---------------------------------------------------------------------------------------------------------- in words


def _outliers_in_words(detected: "Outliers", depth: int) -> str:
    most = max(range(depth), key=lambda block: detected.max_over_median[block])
    share = 100 * float(detected.masks.double().mean())
    parts = [
        f"largest norm {detected.max_over_median[most]:.3g} × median, after block {most} of 0 to {depth - 1}",
        f"outliers: norm > {detected.threshold:.4g} after block {detected.block}, {share:.2f} % of patches",
        f"in {detected.images:,} of {len(detected.masks):,} images",
    ]
    return f"{parts[0]}; {', '.join(parts[1:])}; neurons of blocks up to {detected.top_block}"


def _neurons_in_words(neurons: "RegisterNeurons", chosen: "list[Scored]") -> list[str]:
    """The list, a line a block, then the best and the last score beside the activation at other patches."""
    lines = [f"  block {block:>2}: {_some(list(of_block))}" for block, of_block in neurons.blocks.items()]
    if chosen:
        ends = (("highest", chosen[0]), ("lowest", chosen[-1])) if len(chosen) > 1 else (("score", chosen[0]),)
        shown = [f"{word} {one.activation:.3g} at outliers, {one.elsewhere:.3g} elsewhere" for word, one in ends]
        lines.append(f"  mean |activation|: {'; '.join(shown)}")
    return lines


def _some(neurons: list[int]) -> str:
    more = f", … {len(neurons) - PER_LINE} more" if len(neurons) > PER_LINE else ""
    return ", ".join(map(str, neurons[:PER_LINE])) + more


def _effects_table(effects: "dict[str, Effect]") -> str:
    rows = [["model", "largest norm / median", "outliers, %", "norm of the register"]]
    for name, one in effects.items():
        register = "–" if one.register is None else f"{one.register:.4g}"
        rows.append([name, f"{one.max_over_median:.3g}", f"{one.outliers:.2f}", register])
    return markdown.table(rows)


def _advice(options: FindNeurons, detected: "Outliers", taken: int, effects: "dict[str, Effect]") -> list[str]:
    """How to go on: the command of an evaluation, or what to try where outliers are left."""
    variables = {
        "MODEL": f"{options.model}+ttr",
        "DATA": options.data,
        **({"SEED": options.seed} if options.seed else {}),
    }
    before, *others = effects.values()
    lines = [f"{invocation('eval', variables)} and any task, look, grid or table takes it as a model with one register"]
    if min(other.outliers for other in others) > before.outliers / 2:
        other = 2 * (options.top_k or 10)
        lines.insert(
            0, f"more than half of the outliers are left: try top_k={other} or top_block={detected.top_block + 1}"
        )
    return lines


def _facts(
    options: FindNeurons,
    data: DataSettings,
    passes: "Passes",
    detected: "Outliers",
    chosen: "list[Scored]",
    effects: "dict[str, Effect]",
) -> "dict[str, Any]":
    """Provenance of a list: images, settings, what was found with them, and the scores."""
    from regvit_lightning import records

    made = records.provenance(passes.seconds)
    return {
        "data": data.name,
        "digests": passes.digests,
        "images": len(detected.masks),
        "view": passes.view_in_words,
        "settings": json.loads(json.dumps(asdict(passes.search))) | ({"known": options.known} if options.known else {}),
        "detect_block": detected.block,
        "threshold": round(detected.threshold, 4),
        "top_block": detected.top_block,
        "images_with_outliers": detected.images,
        "outliers_percent": round(100 * float(detected.masks.double().mean()), 4),
        "max_over_median_by_block": [round(value, 3) for value in detected.max_over_median],
        "scores": {f"{one.block}.{one.neuron}": [round(one.activation, 4), round(one.elsewhere, 4)] for one in chosen},
        "effects": {name: _rounded(one) for name, one in effects.items()},
        "made": {key: made[key] for key in ("commit", "dirty", "date", "device", "seconds")},
    }


def _rounded(one: "Effect") -> "dict[str, Any]":
    return {key: value if value is None else round(value, 4) for key, value in asdict(one).items()}


def cli() -> None:
    """Parse the command line and run the program."""
    command.run("neurons", DESCRIPTION, FindNeurons, main)


if __name__ == "__main__":
    cli()
