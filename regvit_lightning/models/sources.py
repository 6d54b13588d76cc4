"""Sources of a backbone's weights: our runs, timm, the Hub, files, a user's function, or random initialisation."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo, resolve_model_data_config
from torch import nn

from regvit_lightning import settings
from regvit_lightning.errors import Notice, UserError
from regvit_lightning.invocation import invocation
from regvit_lightning.models import (
    EXPORT,
    beside,
    file_words,
    foreign,
    hub,
    hugging_face,
    interventions,
    kinds,
    names,
    origins,
    positions,
    preprocessing,
    register_neurons,
    vit,
    weights,
)
from regvit_lightning.models.backbone import Backbone
from regvit_lightning.models.feature_maps import FeatureMaps, check_maps
from regvit_lightning.models.file_words import FileWords
from regvit_lightning.models.heads import Heads
from regvit_lightning.models.vit_backbone import PLAIN, ViTBackbone, check_vit
from regvit_lightning.runtime import seeds

VIT_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")  # of timm, for suggestions

DIGITS = 8  # of the fingerprint, in the id of a file whose name says nothing


def load_backbone(
    name: str | Path,
    runs: str | Path = "runs/mini",
    seed: int = 0,
    pretrained: bool = True,
    image_size: int = 224,
) -> Backbone:
    """Load the backbone called `name`, frozen.

    Args:
        name: one of
            `<recipe>[+<tag>]-<model>`: our trained model, `<runs>/<that>/seed<seed>/backbone.safetensors`;
            `timm/<model>`: a ViT of timm with its released weights, from the cache or the Hugging Face Hub;
            `hf/<org>/<model>`: DINOv2, DINOv3, ViT or CLIP of transformers, from the cache or the Hub;
            a path (with a `/`, or ending in .safetensors, .pth, .pt, .ckpt, .bin) of a file in any naming that
            `weights` reads, or of a folder with `model.safetensors`; words after it say what its tensors cannot, see
            `file_words`: `moco.pth:heads=12:mean=0.5:std=0.5`;
            `python:<module or file>:<function>`: the model that a function of yours returns, see `foreign`;
            `random-<model>`, `random-timm/<model>`: untrained;
            any of these and `+ttr` or `+bias`, with `_per_block` or without: a plain ViT with a test-time register or a
            bias in its place, see `interventions`; its register neurons are those of `register_neurons.file_of`.
        runs: folder of the trained models; those trained on data `<data>` are in `runs/<data>`.
        seed: seed of the training run, or of the initialisation of an untrained model.
        pretrained: False leaves `timm/<model>` untrained; its name then starts with `random-`.
        image_size: image side in pixels of `random-<model>`; every other model has its own.

    Returns:
        A module that maps images (B, 3, H, W) to `Tokens`, and whose `transform` prepares such images.

    Raises:
        UserError: unknown model, missing or unsuitable file, weights that cannot be fetched, or that are not finite; an
            intervention without register neurons.
    """
    plain, intervention = names.intervention(str(name))
    if intervention is not None:
        neurons = register_neurons.read(register_neurons.file_of(plain, Path(runs), seed))
        return interventions.apply(load_backbone(plain, runs, seed, pretrained, image_size), intervention, neurons)
    backbone = _load(str(name), Path(runs), seed, pretrained, image_size)
    weights.require_finite(dict(backbone.model.named_parameters()), backbone.name)
    backbone.origin = origins.origin(str(name))
    return backbone


def _load(name: str, runs: Path, seed: int, pretrained: bool, image_size: int) -> Backbone:
    if name.startswith(origins.PYTHON):
        return foreign.load_foreign(name, seed)
    start, _, rest = name.partition("/")
    if start in ("timm", "random-timm") and rest:
        return _from_timm(rest, pretrained and start == "timm", seed)
    if name.startswith(origins.RANDOM):
        with seeds.drawn_from(seed, "initialise"):
            model = vit.build(name.removeprefix(origins.RANDOM), image_size=image_size)
        return ViTBackbone(model, name, image_size, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if origins.is_file(name):
        return _from_file(name)
    if name.startswith(origins.HUB):
        return _from_file(str(hub.fetch_model(name)), origins.record_id(name))
    backbone = _from_file(str(trained(name, runs, seed)))
    if backbone.name != name:
        raise UserError(f"{backbone.source}: holds {backbone.name}, not {name}")
    return backbone


def trained(name: str, runs: Path, seed: int) -> Path:
    """Path of the weights of our trained model `<recipe>[+<tag>]-<model>`, see `load_backbone`.

    Raises:
        UserError: no such model, or it is not trained yet; the message gives the training command.
    """
    parsed = names.parse_id(name)
    if parsed is None:
        raise UserError(f"unknown model '{name}'; {_nearest(name)}")
    names.parse_name(parsed.name)
    path = runs / name / f"seed{seed}" / EXPORT
    if not path.exists():
        variables = {"MODEL": parsed.name, "RECIPE": parsed.recipe, "TAG": parsed.tag, "SEED": seed}
        given = {key: value for key, value in variables.items() if value != ""}
        command = invocation("pretrain", given, "<the settings of this tag>" if parsed.tag else "")
        raise UserError(f"{name} is not trained yet ({path} is missing): {command}, with the same data")
    return path


def weights_files(name: str, runs: Path, seed: int) -> list[Path]:
    """Files that determine the weights of a model and how they are read; empty where there are none.

    There are none for untrained models, for those of a user's function, and for releases that timm fetches itself; an
    intervention adds its own.

    Raises:
        UserError: no such model, or weights that cannot be fetched.
    """
    plain, intervention = names.intervention(name)
    if intervention is not None:
        neurons = register_neurons.file_of(plain, runs, seed)
        means = [neurons.with_suffix(register_neurons.MEANS)] if intervention.kind == "bias" else []
        return [*weights_files(plain, runs, seed), neurons, *(file for file in means if file.is_file())]
    if name.startswith((origins.PYTHON, origins.RANDOM)):
        return []
    if name.startswith(origins.TIMM):
        released = _released(name.removeprefix(origins.TIMM))
        return [Path(released["file"])] if "file" in released else []
    if origins.is_file(name):
        path = Path(file_words.split(name)[0]).expanduser()
        return _with_beside(hugging_face.weights_in(path) if path.is_dir() else path)
    return [hub.fetch_model(name) if name.startswith(origins.HUB) else trained(name, runs, seed)]


def _with_beside(path: Path) -> list[Path]:
    """The file and those beside it that say how it is read."""
    others = (path.with_name(name) for name in (beside.CONFIG, beside.PROCESSOR, beside.CLIP_CONFIG))
    return [path, *(other for other in others if other.is_file())]


def _from_file(name: str, model_id: str = "") -> ViTBackbone:
    text, words = file_words.split(name)
    path = Path(text).expanduser()
    path = hugging_face.weights_in(path) if path.is_dir() else path
    loaded = weights.load_weights(path, words)
    backbone = _ours(path, loaded) if loaded.metadata else _foreign(path, loaded, words)
    if loaded.metadata is None:
        backbone.name = model_id or _file_id(path, backbone, name.removeprefix(text))
    return _of_kind(loaded.kind, backbone)


def _ours(path: Path, loaded: weights.Loaded) -> ViTBackbone:
    metadata = loaded.metadata
    assert metadata is not None, "a file of ours has metadata"
    # Exports and checkpoints have the same file names in every run, so use the id: deit3-vitb_reg4, …-ema, …-last.
    name = metadata.id if path.name == EXPORT else f"{metadata.id}-{path.stem.removeprefix('backbone_')}"
    names.check_id(name, f"{path}: the id of its model,")
    backbone = ViTBackbone(loaded.model, name, metadata.image_size, metadata.mean, metadata.std, path)
    settings_there = metadata.info.get("settings")
    backbone.trained_with = settings_there if isinstance(settings_there, dict) else {}
    backbone.read_from = {"heads": loaded.heads.origin, "mean_and_std": "the file's metadata"}
    return backbone


def _foreign(path: Path, loaded: weights.Loaded, words: FileWords) -> ViTBackbone:
    seen = preprocessing.of(path, loaded.naming, words)
    side = int(loaded.model.patch_embed.img_size[0])
    backbone = ViTBackbone(loaded.model, path.stem, side, seen.mean, seen.std, path, seen.share)
    backbone.choices = {**loaded.choices, **seen.choices}
    backbone.read_from = {"heads": loaded.heads.origin, "mean_and_std": seen.origin, "part": loaded.part}
    _say_guesses(path, loaded.heads, seen)
    return backbone


def _say_guesses(path: Path, heads: Heads, seen: preprocessing.Seen) -> None:
    """Warn, in one line, of what neither the user nor the file nor one beside it says."""
    guesses = [f"{heads.number} heads"] if heads.guessed else []
    words = [":heads=<number>"] if heads.guessed else []
    if seen.guessed:
        guesses.append(f"mean {list(seen.mean)} and std {list(seen.std)} ({seen.origin})")
        words.append(":mean=<values>:std=<values>")
    if guesses:
        advice = f"no {beside.CONFIG} beside it says; if that is wrong, give the model as {path}{''.join(words)}"
        warnings.warn(f"{path}: read with {' and with '.join(guesses)}, which {advice}", Notice, stacklevel=2)


def _file_id(path: Path, backbone: Backbone, words: str) -> str:
    """Id of a foreign file: its stem; or that of its folder in the Hub's layout; or both with a hash of the weights."""
    folder = path.absolute().parent.name
    if not origins.is_generic(path.stem):
        return origins.record_id(path.stem + words)
    if path.with_name(beside.CONFIG).exists() and not origins.is_generic(folder):
        return origins.record_id(folder + words)
    return origins.record_id(f"{folder}-{path.stem}{words}-{backbone.fingerprint[:DIGITS]}")


def _of_kind(kind: str, backbone: ViTBackbone) -> ViTBackbone:
    """Set the kind of a backbone where its origin tells more than its structure."""
    backbone.kind = backbone.kind if kind == kinds.OTHER else kind
    return backbone


def _from_timm(name: str, pretrained: bool, seed: int) -> Backbone:
    full_name = f"timm/{name}"
    released = _with_untagged(timm.list_models(pretrained=True))
    if name not in {*released, *timm.list_models()}:
        raise UserError(f"unknown model '{full_name}'; {_nearest(full_name)}")
    if pretrained and name not in released:
        raise UserError(f"timm has no released weights for '{name}' (random-{full_name} is untrained)")
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    with torch.device("meta"):  # its class is needed before anything large is fetched or initialised
        skeleton, options = _skeleton(name, options)
    plain = isinstance(skeleton, PLAIN)
    (check_vit if plain else check_maps)(skeleton, full_name)
    if pretrained:
        options["pretrained_cfg_overlay"] = _released(name)
    with seeds.drawn_from(seed, "initialise"), hub.fetching(full_name):
        model = timm.create_model(name, pretrained=pretrained, **options)
    if "dinov2" in name and getattr(model, "reg_token", None) is None:
        positions.use(model, positions.OFFSET)
    config = resolve_model_data_config(model)
    read_from = {"heads": "timm", "mean_and_std": "timm"}
    label = f"timm-{name}" if pretrained else f"random-timm-{name}"
    size, share = config["input_size"][-1], config["crop_pct"]
    classifier = partial(_classifier, name, pretrained, seed)
    if not plain:
        maps = FeatureMaps(model, label, size, config["mean"], config["std"], share=share)
        maps.classifier_source = classifier
        maps.read_from = {"mean_and_std": "timm"}
        return maps
    backbone = ViTBackbone(model, label, size, config["mean"], config["std"], share=share)
    backbone.classifier_source = classifier
    used = backbone.facts()["positions"]
    backbone.choices = {"positions": used} if used == positions.OFFSET else {}
    backbone.read_from = read_from
    return _of_kind(kinds.of_architecture(name), backbone)


def _classifier(name: str, pretrained: bool, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """A model of timm with its classifier of ImageNet's 1,000 classes, see `Backbone.own_classifier`."""
    full_name, names = f"timm/{name}", ImageNetInfo().label_names()
    with seeds.drawn_from(seed, "initialise"), hub.fetching(full_name):
        options: dict[str, Any] = {"pretrained_cfg_overlay": _released(name)} if pretrained else {}
        model = timm.create_model(name, pretrained=pretrained, **options)
    if model.num_classes != len(names):
        raise UserError(f"{full_name}: its classifier has {model.num_classes:,} classes, not ImageNet's {len(names):,}")
    return model, tuple(names)


def _skeleton(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A model of timm that accepts images of any size where its class can, and the options with which it was made."""
    plain = {key: value for key, value in options.items() if key != "dynamic_img_size"}
    for tried in (options, {**plain, "strict_img_size": False}, plain):  # ViTs, Swin, and classes of one size or any
        try:
            return timm.create_model(name, **tried), dict(tried)
        except TypeError:
            continue
    return timm.create_model(name), {}


def _released(name: str) -> dict[str, Any]:
    """Options that make timm read a model's weights from the Hub's cache, after fetching them there."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or config.hf_hub_filename:
        return {}  # a release of another kind, which timm fetches itself
    file = hub.fetch(f"timm/{name}", config.hf_hub_id, [hugging_face.WEIGHTS[0]])
    return {} if file is None else {"file": str(file), "custom_load": False}


def _nearest(name: str) -> str:
    sizes, recipes = settings.names("models"), ["random", *settings.names("recipes")]
    ours = [f"{recipe}-{size}_reg{n}" for recipe in recipes for size in sizes for n in (0, 1, 2, 4, 8, 16)]
    vits = [model for module in VIT_MODULES for model in timm.list_models(module=module, pretrained=True)]
    known = [*ours, *(f"timm/{model}" for model in sorted(_with_untagged(vits)))]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    forms = "expected <recipe>-<model>, random-<model>, timm/<name> or the path of a checkpoint"
    return f"nearest: {', '.join(close)}" if close else f"{forms}; or hf/<org>/<name>, python:<module>:<function>"


def _with_untagged(models: Sequence[str]) -> set[str]:
    # `vit_base_patch16_224` stands for the first of its tags, `vit_base_patch16_224.augreg2_in21k_ft_in1k`.
    return {*models, *(model.partition(".")[0] for model in models)}
