"""Shared code of the frozen evaluations: contract, settings, module, trainer."""
