"""Models on disk, from published weights to a variant that runs. Knows nothing of HTTP or load."""
