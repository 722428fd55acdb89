"""Proves that what lies downstream of a seam can live with fewer tokens, and rewrites the counts baked into it."""
