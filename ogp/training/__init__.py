"""The loop around the step: transformers' Trainer, its data, learning rates, stages, checkpoints and processes."""
