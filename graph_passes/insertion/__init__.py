"""Puts compressors at seams: signals, node, downstream counts, size bias; and keeps what was inserted where."""
