"""RegViT-Lightning: is this backbone better, where, and do I believe it?

A suite around "Vision Transformers Need Registers" (Darcet et al., arXiv 2309.16588): pretraining of vision
transformers with registers, frozen evaluations, and result records that can be compared.
"""

__version__ = "0.1.0"
