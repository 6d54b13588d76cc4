"""Arms: changes of the architecture that others propose against attention sinks and high-norm tokens, one switch each.

An arm is part of a model's name, `vitb_gated_reg4`, so that its id, its records, its export and its checkpoints say
what was trained, and it goes with any number of registers. This file lists the arms and imports nothing heavy;
`registry.py` says how each changes the model. To add one: its line in `DESCRIPTIONS`, its entry in `registry.ARMS`, the
module that it needs in a file of this folder, its row in docs/arms.md, and its exact test.
"""

NONE = "none"  # the plain register ViT, which has no arm in its name

DESCRIPTIONS = {
    "gated": "a sigmoid gate on the output of attention for each channel (Qiu et al. 2025)",
}


def names() -> list[str]:
    """Names of the arms, without `none`."""
    return list(DESCRIPTIONS)
