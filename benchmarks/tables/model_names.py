"""What a model's id says: its number of registers, its family, its twin without registers, whether it is trained."""

import re

REGISTERS = re.compile(r"_reg(\d+)")
UNTRAINED = "random-"


def registers(model: str) -> int:
    """Number of registers in the id, 0 where it names none."""
    number = REGISTERS.search(model)
    return int(number[1]) if number else 0


def family(model: str) -> str:
    """The id without its number of registers: the same for models that differ in nothing else."""
    return REGISTERS.sub("", model)


def twins(model: str) -> list[str]:
    """Ids that the same model without registers may have: ours say `_reg0`, timm's say nothing."""
    return [REGISTERS.sub("_reg0", model), family(model)]


def is_untrained(model: str) -> bool:
    """Whether the weights are random: a floor."""
    return model.startswith(UNTRAINED)
