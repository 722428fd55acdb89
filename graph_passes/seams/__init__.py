"""Finds the places in a graph where a compressor can go, and what can be read there."""
