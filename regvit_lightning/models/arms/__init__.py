"""Arms: changes of the architecture that others propose against attention sinks and high-norm tokens, one switch each.

An arm is part of a model's name, `vitb_gated_reg4`, so that its id, its records, its export and its checkpoints say
what was trained, and it goes with any number of registers. This file lists the arms and imports nothing heavy;
`registry.py` says how each changes the model. To add one: its line in `DESCRIPTIONS`, its entry in `registry.ARMS`, the
module that it needs in a file of this folder, its row in docs/arms.md, and its exact test.
"""

NONE = "none"  # the plain register ViT, which has no arm in its name

DESCRIPTIONS = {
    "gated": "a sigmoid gate on the output of attention for each channel (Qiu et al. 2025)",
    "gated_headwise": "a sigmoid gate on the output of attention for each head (Qiu et al. 2025)",
    "value_gate": "a sigmoid gate on the values for each channel, from the values (Bu et al. 2025; DINOv3, A.1)",
    "value_gate_headwise": "a sigmoid gate on the values for each head, from the values (Bu et al. 2025)",
    "softmax1": "softmax with 1 added to its denominator: one more key and value of zero (Miller 2023)",
    "bias_kv": "a learned key and value for each head beside those of the tokens (Sun et al. 2024; DINOv3, A.1)",
    "clipped": "softmax that is stretched and clipped, so that weights reach 0 (Bondarenko et al. 2023)",
    "qk_norm": "a norm on the queries and on the keys of each head (Dehghani et al. 2023)",
    "scale_norm": "a norm on the output of attention before its projection (Wang et al. 2022)",
    "diff": "the difference of two softmax maps in each head (Ye et al. 2024)",
    "norm_embed": "a norm on all tokens before the first block (Bondarenko et al. 2023)",
    "global": "a pooled state for all tokens beside attention, and a penalty on their common update (2606.08105)",
    "rats": "registers split over the heads, and patches that attend registers alone (RATS, 2606.14701)",
    "last1": "CLS replaced by the most stable patch of each channel (LaSt pooling with K = 1, 2602.22394)",
    "last7": "CLS replaced by the mean of the 7 most stable patches of each channel (LaSt pooling, 2602.22394)",
}

# Vectors of arms that no recipe decays, beside the biases and norms: ends of the names of tensors.
NOT_DECAYED = ("bias_k", "bias_v", "lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def names() -> list[str]:
    """Names of the arms, without `none`."""
    return list(DESCRIPTIONS)
