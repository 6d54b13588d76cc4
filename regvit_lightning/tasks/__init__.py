"""Frozen evaluations: one LightningModule per task, each with `Settings` and `run(backbone, data, settings)`."""
