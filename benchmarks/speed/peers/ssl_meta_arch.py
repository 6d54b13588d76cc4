"""DINOv2's training step: `SSLMetaArch` of facebookresearch/dinov2, in one process, beside our recipe's.

The same crops, masks, sizes of model and heads, and losses. On a CPU xFormers' operations are those of torch, `.cuda()`
does nothing, and the teacher and the clipping, which theirs does over FSDP's parts, go over lists of parameters.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.peers import pairs, products, xformers_stand_in
from benchmarks.speed.pretraining import AFFORDABLE, thrifty_step
from benchmarks.speed.timing import Measurement, autocast
from regvit_lightning import settings
from regvit_lightning.pretrain.dinov2 import recipe as dinov2
from regvit_lightning.runtime import hardware, seeds

MODEL, BATCH = "vits_reg4", 4
LEAST = 0.85  # of our step, that is its matrix products


def rows(checkouts: Path) -> list[Measurement]:
    """Seconds of a step of theirs over ours, and the share of ours that its matrix products take alone."""
    own = dict.fromkeys(("batch_size", "device_batch", "group"), BATCH)
    words = [word for word in AFFORDABLE["dinov2"] if word.split("=")[0] not in own]
    words += [f"{name}={value}" for name, value in own.items()]
    chosen = settings.load_settings("recipes", "dinov2", words=words)[1]
    with seeds.drawn_from(0, "initialise"):
        recipe = dinov2.DINOv2(chosen, MODEL, 0, 1000, 0).to(hardware.accelerator())
    shapes = {"global": (2, chosen.image_size), "local": (chosen.local_crops, chosen.local_size)}
    crops = {
        name: torch.randint(256, (BATCH, count, 3, size, size), dtype=torch.uint8, device=recipe.device)
        for name, (count, size) in shapes.items()
    }
    ours, theirs = thrifty_step(recipe, crops), their_step(recipe, crops)
    sizes = f"{MODEL}, {chosen.image_size} and {chosen.local_crops} × {chosen.local_size} px, batch {BATCH}"
    row = pairs.beside(f"DINOv2 step / SSLMetaArch, {sizes}", ours, theirs, "≥ 1.1")
    alone = products.product_seconds(ours)
    taken = pairs.beside("", ours, lambda: None, "").parts  # timed again, next to the products
    whole = float(taken.split()[0])
    limit = Measurement(
        f"(peers) matrix products of our DINOv2 step / the step, {sizes}",
        alone / whole,
        f"≥ {LEAST}",
        f"{alone:.3g} s products of the same shapes alone, {whole:.3g} s step",
    )
    return [row, limit]


def their_step(recipe: Any, crops: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A step of `SSLMetaArch` with the sizes of our recipe, on the same crops and masks."""
    if importlib.util.find_spec("xformers") is None:
        xformers_stand_in.install()
    if recipe.device.type == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment,method-assign]
    pairs.one_process()
    pairs.without("fvcore.common.checkpoint", "iopath.common.file_io")
    from dinov2.train.ssl_meta_arch import SSLMetaArch

    architecture = SSLMetaArch(configuration(recipe)).to(recipe.device)
    architecture.need_to_synchronize_fsdp_streams = False
    for name, student in architecture.student.items():
        architecture.teacher[name].load_state_dict(student.state_dict(), strict=False)
    architecture.train()
    optimiser = torch.optim.AdamW(architecture.get_params_groups(), lr=1e-4)
    followed = [list(part.parameters()) for part in (architecture.teacher, architecture.student)]
    groups = [(0, number) for number in range(recipe.settings.batch_size // recipe.settings.group)]

    def step() -> None:
        images = batch(recipe, crops, recipe.masks_of(groups).to(recipe.device))
        optimiser.zero_grad()
        with autocast():
            architecture.forward_backward(images, teacher_temp=0.04)
        for part in architecture.student.values():
            torch.nn.utils.clip_grad_norm_(part.parameters(), recipe.settings.clip)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_mul_(followed[0], 0.99)
            torch._foreach_add_(followed[0], followed[1], alpha=0.01)

    return step


def configuration(recipe: Any) -> Any:
    """Their settings for the sizes of our recipe."""
    from dinov2.configs import dinov2_default_config
    from omegaconf import OmegaConf

    s = recipe.settings
    heads = {"head_hidden_dim": s.head_hidden, "head_nlayers": 3}
    own = {
        "compute_precision": {"grad_scaler": False},
        "dino": {"head_n_prototypes": s.prototypes, "head_bottleneck_dim": s.bottleneck, **heads},
        "ibot": {
            "separate_head": s.separate_heads,
            "head_n_prototypes": s.ibot_prototypes,
            "head_bottleneck_dim": s.ibot_bottleneck,
            **heads,
        },
        "train": {"centering": "sinkhorn_knopp"},
        "student": {
            "arch": "vit_small",
            "patch_size": 16,
            "drop_path_rate": s.drop_path,
            "layerscale": s.layer_scale,
            "ffn_layer": "swiglufused" if s.swiglu else "mlp",
            "num_register_tokens": recipe.backbone.num_reg_tokens,
        },
        "crops": {
            "global_crops_size": s.image_size,
            "local_crops_size": s.local_size,
            "local_crops_number": s.local_crops,
        },
    }
    return OmegaConf.merge(OmegaConf.create(dinov2_default_config), OmegaConf.create(own))


def batch(recipe: Any, crops: dict[str, torch.Tensor], masks: torch.Tensor) -> dict[str, Any]:
    """A batch as their collation gives it: normalised crops, crop by crop, and what follows from the masks."""
    flat = masks.flatten(1)
    indices = flat.flatten().nonzero().flatten()
    weights = (1 / flat.sum(dim=1).clamp(min=1)).unsqueeze(1).expand_as(flat)[flat]
    wide, near = (recipe.normalise(crops[name].transpose(0, 1).flatten(0, 1)) for name in ("global", "local"))
    return {
        "collated_global_crops": wide,
        "collated_local_crops": near,
        "collated_masks": flat,
        "mask_indices_list": indices,
        "masks_weight": weights,
        "upperbound": len(indices),
        "n_masked_patches": torch.tensor([len(indices)], device=flat.device),
    }
