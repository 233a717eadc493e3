"""The training step, its schedule and evaluation; pretraining of the embedded encoder."""
