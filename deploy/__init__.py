"""How images are put together."""
