"""Where the weights of a backbone come from: our runs, timm's releases, files in other namings, or nowhere."""

import difflib
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from regvit_lightning import settings
from regvit_lightning.errors import UserError, one_line
from regvit_lightning.models import EXPORT, names, vit, weights
from regvit_lightning.models.backbone import Backbone, check_vit
from regvit_lightning.runtime import seeds

FILES = (".safetensors", ".pth", ".pt", ".ckpt")


CLIP_CONFIG = "open_clip_config.json"  # beside the weights of a released open_clip model


VIT_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "beit")  # of timm, for suggestions


# A failure of one of these packages, on timm's way to released weights, means that they could not be fetched.
NETWORK = ("huggingface_hub", "requests", "httpx", "httpx2", "httpcore", "urllib3", "urllib")


def load_backbone(name: str, runs: Path, seed: int = 0, pretrained: bool = True, image_size: int = 224) -> Backbone:
    """The backbone called `name`.

    Args:
        name: one of
            `<recipe>[+<tag>]-<model>`: our trained model, `runs/<that>/seed<seed>/backbone.safetensors`;
            `timm/<model>`: a ViT of timm with its released weights, from the cache or the Hugging Face hub;
            a path (with a `/`, or ending in .safetensors, .pth, .pt, .ckpt): see `weights.load`;
            `random-<model>`, `random-timm/<model>`: untrained.
        runs: folder of the trained models.
        seed: of the training run, or of the initialisation of an untrained model.
        pretrained: False leaves `timm/<model>` untrained; its name then says `random-`.
        image_size: side in pixels that `random-<model>` is made for; every other model has its own.

    Raises:
        UserError: unknown model, missing or unsuitable file, or weights that cannot be fetched.
    """
    start, _, rest = name.partition("/")
    if start in ("timm", "random-timm") and rest:
        return _from_timm(rest, pretrained and start == "timm", seed)
    if name.startswith("random-"):
        with seeds.drawn_from(seed, "initialise"):
            model = vit.build(name.removeprefix("random-"), image_size=image_size)
        return Backbone(model, name, image_size, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if rest or name.endswith(FILES):
        return _from_file(Path(name).expanduser())
    backbone = _from_file(trained(name, runs, seed))
    if backbone.name != name:
        raise UserError(f"{backbone.source}: holds {backbone.name}, not {name}")
    return backbone


def trained(name: str, runs: Path, seed: int) -> Path:
    """The weights of our trained model `<recipe>[+<tag>]-<model>`, see `load_backbone`.

    Raises:
        UserError: no such model, or it is not trained yet; says what trains it.
    """
    found = names.parse_id(name)
    if found is None:
        raise UserError(f"unknown model '{name}'; {_nearest(name)}")
    names.parse_name(found.name)
    path = runs / name / f"seed{seed}" / EXPORT
    if not path.exists():
        tag = f' TAG={found.tag} ARGS="<the settings of this tag>"' if found.tag else ""
        command = f"make pretrain MODEL={found.name} RECIPE={found.recipe}{tag} SEED={seed}, with this DATA"
        raise UserError(f"{name} is not trained yet ({path} is missing): {command}")
    return path


def _from_file(path: Path) -> Backbone:
    model, metadata = weights.load_weights(path)
    if metadata is None:
        size = int(model.patch_embed.img_size[0])
        mean, std = _clip_mean_std(path) if model.pre_norm else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        return Backbone(model, path.stem, size, mean, std, path)
    # Exports and checkpoints have the same file names in every run; the id tells more: deit3-vitb_reg4, …-ema, …-last.
    name = metadata.id if path.name == EXPORT else f"{metadata.id}-{path.stem.removeprefix('backbone_')}"
    return Backbone(model, name, metadata.image_size, metadata.mean, metadata.std, path)


def _clip_mean_std(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Of the images of an open_clip model: its own, which a released model has in a file beside it, or OpenAI's."""
    file = path.with_name(CLIP_CONFIG)
    if not file.exists():
        return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        quick, images = config["model_cfg"].get("quick_gelu", False), config["preprocess_cfg"]
        mean, std = images.get("mean", OPENAI_CLIP_MEAN), images.get("std", OPENAI_CLIP_STD)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a configuration of open_clip ({one_line(error)})") from None
    if quick:
        raise UserError(f"{path}: {file.name} says QuickGELU, which our ViT does not have; take it as timm/<name>")
    return mean, std


def _from_timm(name: str, pretrained: bool, seed: int) -> Backbone:
    full_name = f"timm/{name}"
    released = _with_untagged(timm.list_models(pretrained=True))
    if name not in {*released, *timm.list_models()}:
        raise UserError(f"unknown model '{full_name}'; {_nearest(full_name)}")
    if pretrained and name not in released:
        raise UserError(f"timm has no released weights for '{name}' (random-{full_name} is untrained)")
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    with torch.device("meta"):  # its class is known before anything large is fetched or filled
        try:
            check_vit(timm.create_model(name, **options), full_name)
        except TypeError:  # the class does not take other sizes than its own
            del options["dynamic_img_size"]
            check_vit(timm.create_model(name, **options), full_name)
    with seeds.drawn_from(seed, "initialise"), _fetching(full_name):
        model = timm.create_model(name, pretrained=pretrained, **options)
    config = resolve_model_data_config(model)
    label = f"timm-{name}" if pretrained else f"random-timm-{name}"
    return Backbone(model, label, config["input_size"][-1], config["mean"], config["std"])


def _nearest(name: str) -> str:
    sizes, recipes = settings.names("models"), ["random", *settings.names("recipes")]
    ours = [f"{recipe}-{size}_reg{n}" for recipe in recipes for size in sizes for n in (0, 1, 2, 4, 8, 16)]
    vits = [model for module in VIT_MODULES for model in timm.list_models(module=module, pretrained=True)]
    known = [*ours, *(f"timm/{model}" for model in sorted(_with_untagged(vits)))]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    forms = "expected <recipe>-<model>, random-<model>, timm/<name> or the path of a checkpoint"
    return f"nearest: {', '.join(close)}" if close else forms


def _with_untagged(models: Sequence[str]) -> set[str]:
    # `vit_base_patch16_224` stands for the first of its tags, `vit_base_patch16_224.augreg2_in21k_ft_in1k`.
    return {*models, *(model.partition(".")[0] for model in models)}


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    try:
        with _without_retries():
            yield
    except Exception as error:
        packages = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
        if not isinstance(error, OSError) and packages.isdisjoint(NETWORK):
            raise
        raise UserError(
            f"{name}: its released weights are not in the cache and could not be fetched ({type(error).__name__}); "
            "fetch them once on a machine with network and take its HF_HOME along, or give a local file as the model"
        ) from error


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub's name cannot be resolved, look into its cache only: its client would retry for a minute."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
