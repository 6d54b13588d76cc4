"""Vision transformers with registers, frozen backbones, and weights in every naming."""

EXPORT = "backbone.safetensors"  # of a finished run, in its folder: the backbone that the evaluations take
