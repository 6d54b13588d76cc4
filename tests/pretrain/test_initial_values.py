"""Mean and standard deviation of every initial parameter of every recipe, by the rules of the reference code.

The rules were confirmed on models built by facebookresearch/dinov2 b8931f7, facebookresearch/deit 7e160fe and
mlfoundations/open_clip 89fb801; for OpenCLIP the installed package is compared as well.
"""

import math
import re
from collections import defaultdict

import open_clip
import pytest
import torch

from regvit_lightning import settings
from regvit_lightning.pretrain.recipe import recipe_class
from regvit_lightning.runtime import seeds

MODEL, WIDTH, IMAGE = "vits_reg4", 384, 64
JOINT, TEXT, TEXT_LAYERS = 128, 256, 3


def default(fan_in):
    """Standard deviation of PyTorch's own weights and biases: uniform between ±fan_in^-0.5."""
    return (3 * fan_in) ** -0.5


def constant(value):
    return (value, 0.0)


def drawn(std):
    return (0.0, std)


# Name of a parameter, with `*` for the number of a block, and (mean, std). In both reference codes every linear layer
# is drawn from a truncated normal of 0.02, with biases of 0, and the patch embedding is left to PyTorch.
LINEAR, ZERO, ONE = drawn(0.02), constant(0.0), constant(1.0)
PATCH = drawn(default(3 * 16**2))
COMMON = {
    r"pos_embed": LINEAR,
    r"cls_token": LINEAR,  # DINOv2: 1e-6 plus the position entry of 0.02; DeiT-III: 0.02
    r"reg_token": drawn(1e-6),  # registers paper
    r"patch_embed\.proj\.(weight|bias)": PATCH,
    r"blocks\.\*\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.weight": LINEAR,
    r"blocks\.\*\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.bias": ZERO,
    r"(blocks\.\*\.)?norm[12]?\.weight": ONE,
    r"(blocks\.\*\.)?norm[12]?\.bias": ZERO,
}
DEIT = {**COMMON, r"head\.weight": LINEAR, r"head\.bias": ZERO, r"blocks\.\*\.ls[12]\.gamma": constant(1e-4)}
DINO = {**COMMON, r"mask_token": ZERO, r"blocks\.\*\.ls[12]\.gamma": constant(1e-5)}


def head(bottleneck):
    """A head of DINO or iBOT: the prototypes keep PyTorch's default, their gain is 1."""
    return {
        r"mlp\.[024]\.weight": LINEAR,
        r"mlp\.[024]\.bias": ZERO,
        r"last_layer\.direction": drawn(default(bottleneck)),
        r"last_layer\.gain": ONE,
    }


def below(prefix, rules):
    return {prefix + name: rule for name, rule in rules.items()}


def heads(*named):
    return {name: rule for prefix, dim in named for name, rule in below(prefix, head(dim)).items()}


# open_clip's image tower is left to PyTorch: Xavier for q, k and v of an attention, its defaults for linear layers.
SCALE = WIDTH**-0.5
CLIP_IMAGES = {
    r"pos_embed": drawn(SCALE),
    r"cls_token": drawn(math.sqrt(2) * SCALE),  # the class embedding plus its position entry
    r"reg_token": drawn(SCALE),  # open_clip's tower has none: like a class embedding
    r"patch_embed\.proj\.weight": PATCH,
    r"blocks\.\*\.attn\.qkv\.weight": drawn((2 * WIDTH) ** -0.5),  # Xavier: 2 / (inputs + outputs), outputs 3 × inputs
    r"blocks\.\*\.attn\.(qkv|proj)\.bias": ZERO,
    r"blocks\.\*\.attn\.proj\.weight": drawn(default(WIDTH)),
    r"blocks\.\*\.mlp\.fc1\.(weight|bias)": drawn(default(WIDTH)),
    r"blocks\.\*\.mlp\.fc2\.(weight|bias)": drawn(default(4 * WIDTH)),
    r"(norm_pre|norm|blocks\.\*\.norm[12])\.weight": ONE,
    r"(norm_pre|norm|blocks\.\*\.norm[12])\.bias": ZERO,
}
# open_clip's text tower: its own rules, in which depth shrinks what enters the residual stream.
RESIDUAL = (TEXT * 2 * TEXT_LAYERS) ** -0.5
CLIP_TEXTS = {
    r"text\.token_embedding\.weight": LINEAR,
    r"text\.positional_embedding": drawn(0.01),
    r"text\.text_projection": drawn(TEXT**-0.5),
    r"text\.transformer\.resblocks\.\*\.attn\.in_proj_weight": drawn(TEXT**-0.5),
    r"text\.transformer\.resblocks\.\*\.attn\.(in_proj_bias|out_proj\.bias)": ZERO,
    r"text\.transformer\.resblocks\.\*\.(attn\.out_proj|mlp\.c_proj)\.weight": drawn(RESIDUAL),
    r"text\.transformer\.resblocks\.\*\.mlp\.c_fc\.weight": drawn((2 * TEXT) ** -0.5),
    r"text\.transformer\.resblocks\.\*\.mlp\.c_fc\.bias": drawn(default(TEXT)),
    r"text\.transformer\.resblocks\.\*\.mlp\.c_proj\.bias": drawn(default(4 * TEXT)),
    r"text\.(ln_final|transformer\.resblocks\.\*\.ln_[12])\.weight": ONE,
    r"text\.(ln_final|transformer\.resblocks\.\*\.ln_[12])\.bias": ZERO,
    r"projection": drawn(SCALE),
    r"logit_scale": constant(math.log(1 / 0.07)),
}

SMALL_HEADS = ["prototypes=512", "bottleneck=96", "head_hidden=256"]
SMALL_TEXT = [f"text_width={TEXT}", f"text_layers={TEXT_LAYERS}", "text_heads=4", f"embed_dim={JOINT}"]
RULES = {
    "deit3": (below("backbone.", DEIT), []),
    "deit3_in1k": (below("backbone.", DEIT), []),
    "dinov2": (
        {**below("student.backbone.", DINO), **heads(("student.dino_head.", 96), ("student.ibot_head.", 64))},
        [*SMALL_HEADS, "ibot_prototypes=384", "ibot_bottleneck=64"],
    ),
    "dinov2_in1k": ({**below("student.backbone.", DINO), **heads(("student.dino_head.", 96))}, SMALL_HEADS),
    "dinov2_8gpu": ({**below("student.backbone.", DINO), **heads(("student.dino_head.", 96))}, SMALL_HEADS),
    "openclip": ({**below("backbone.", CLIP_IMAGES), **below("space.", CLIP_TEXTS)}, SMALL_TEXT),
}


def build(name, words):
    sizes = [f"image_size={IMAGE}", *(["local_size=32"] if name.startswith("dinov2") else []), *words]
    chosen = settings.load_settings("recipes", name, "", sizes)[1]
    with seeds.drawn_from(0, "initialise"):
        return recipe_class(chosen.module)(chosen, MODEL, 100, 20_000, 0)


def pooled(module):
    """All values of the trained parameters by name, those of the blocks of a tower together."""
    values = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            values[re.sub(r"blocks\.\d+", "blocks.*", name)].append(parameter.detach().double().flatten())
    return {name: torch.cat(parts) for name, parts in values.items()}


def assert_drawn(name, values, mean, std):
    """Within six standard errors of the rule, for as many values as there are."""
    assert values.mean().item() == pytest.approx(mean, abs=max(6 * std / len(values) ** 0.5, 1e-6 * abs(mean))), name
    found = values.std(correction=0).item()
    assert found == pytest.approx(std, rel=6 / (2 * len(values)) ** 0.5, abs=1e-6 * abs(mean)), name


def test_every_recipe_has_its_rules():
    assert set(RULES) == set(settings.names("recipes"))


@pytest.mark.parametrize("name", RULES)
def test_every_initial_parameter_has_mean_and_deviation_of_the_reference(name):
    rules, words = RULES[name]
    found = pooled(build(name, words))
    unused = set(rules)
    for parameter, values in found.items():
        (rule,) = [pattern for pattern in rules if re.fullmatch(pattern, parameter)]
        unused.discard(rule)
        assert_drawn(parameter, values, *rules[rule])
    assert not unused


def test_openclips_towers_start_as_those_of_the_installed_package():
    words = RULES["openclip"][1]
    ours = pooled(build("openclip", words))
    vision = {"image_size": IMAGE, "layers": 12, "width": WIDTH, "patch_size": 16, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": TEXT, "heads": 4, "layers": TEXT_LAYERS}
    torch.manual_seed(1)
    theirs = open_clip.model.CLIP(embed_dim=JOINT, vision_cfg=vision, text_cfg=text)
    visual = theirs.visual
    with torch.no_grad():
        visual.class_embedding += visual.positional_embedding[0]  # what enters the first norm
    renamed = {
        "attn.in_proj_": "attn.qkv.",
        "attn.out_proj": "attn.proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "ln_pre": "norm_pre",
        "ln_post": "norm",
        "conv1": "patch_embed.proj",
        "class_embedding": "cls_token",
        "positional_embedding": "pos_embed",
        "transformer.resblocks": "blocks",
    }
    expected = {}
    for name, values in pooled(theirs).items():
        ours_name = f"space.text.{name}"
        if name.startswith("visual.") and name != "visual.proj":
            for their, our in renamed.items():
                name = name.replace(their, our)
            ours_name = f"backbone.{name.removeprefix('visual.')}"
        expected[{"visual.proj": "space.projection", "logit_scale": "space.logit_scale"}.get(name, ours_name)] = values
    assert ours.keys() - expected.keys() == {"backbone.reg_token"}
    assert expected.keys() <= ours.keys()
    for name, values in expected.items():
        error = 6 * (1 / (2 * len(values)) + 1 / (2 * len(ours[name]))) ** 0.5
        assert ours[name].std(correction=0).item() == pytest.approx(values.std(correction=0).item(), rel=error), name


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_cls_of_dinov2_varies_after_the_final_norm_from_the_first_step_on(ffn):
    """With LayerScale at 1e-5 the output is the normalised input: std 1; from 1e-6 alone the epsilon leaves 0.001."""
    module = build("dinov2", [*SMALL_HEADS, f"swiglu={ffn == 'swiglu'}"])
    images = torch.randn(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cls = module.backbone.forward_features(images)[:, 0]
    assert cls.std(dim=1, correction=0).tolist() == pytest.approx([1.0, 1.0], abs=0.01)
