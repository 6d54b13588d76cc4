"""Pretraining recipes: one LightningModule per recipe, and the parts that they share."""
