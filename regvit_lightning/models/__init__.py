"""Vision transformers with registers, frozen backbones, and weights in every naming."""
