"""Frozen evaluations: one LightningModule per task, each with `SETTINGS` and `run(backbone, data, settings)`."""
