"""A run as others see it: where it stands, how it ended, who may write to its folder. No torch."""
