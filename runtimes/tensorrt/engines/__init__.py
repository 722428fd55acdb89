"""Builds engines in child processes, and keeps them in a bundle with a sidecar each."""
