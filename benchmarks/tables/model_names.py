"""Parse model ids: number of registers, family, twin without registers, and whether the model is trained."""

import re

from regvit_lightning.models import names

REGISTERS = re.compile(r"_reg(\d+)")
UNTRAINED = "random-"


def registers(model: str) -> int:
    """Number of registers in the id, 0 if it has none; a test-time register counts."""
    _, intervention = names.intervention(model)
    number = REGISTERS.search(model)
    return (int(number[1]) if number else 0) + (intervention is not None and intervention.kind == "ttr")


def family(model: str) -> str:
    """Family of a model: its id without the number of registers."""
    return REGISTERS.sub("", model)


def plain_family(model: str) -> str:
    """Family of the weights of a model: those with an intervention at test time are of that of the plain model."""
    return family(names.intervention(model)[0])


def order(model: str) -> tuple[str, bool, str, int, str]:
    """Sort key: by family, then number of registers; what is done at test time to a model follows that model.

    Runs with a tag follow the run without one.
    """
    plain, _ = names.intervention(model)
    return *names.without_tag_first(family(plain)), registers(plain), added(model)


def added(model: str) -> str:
    """What is added to a model at test time, `+ttr`; empty where nothing is."""
    _, intervention = names.intervention(model)
    return str(intervention or "")


def twins(model: str) -> list[str]:
    """Candidate ids of the same model without registers: ours have `_reg0`, timm's no suffix.

    That of a model with an intervention at test time is the model with the same weights and without it.
    """
    plain, intervention = names.intervention(model)
    if intervention is not None:
        return [plain]
    return [REGISTERS.sub("_reg0", model), family(model)]


def is_untrained(model: str) -> bool:
    """True if the weights are random, so that the model is a floor."""
    return model.startswith(UNTRAINED)
