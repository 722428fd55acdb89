"""Builds engines in child processes, and keeps them in a bundle, each with a sidecar."""
