"""How every claimed number is made again. Not part of what serves."""
