"""The HTTP service: the most accurate MobileNet variant that meets the caller's latency budget."""
