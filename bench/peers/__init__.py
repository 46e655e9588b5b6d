"""This service beside others: the same network file, the same pictures, each peer as its own documentation
would write it (see `__main__.py`)."""
