"""Vision transformers with registers, frozen backbones, and weights in all supported namings."""

EXPORT = "backbone.safetensors"  # exported backbone in the folder of a finished run, which the evaluations read
