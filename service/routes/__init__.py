"""HTTP only: each file parses requests, calls the layers below, and shapes the answers."""
