"""Puts compressors at seams: plan, emit, rewire, size bias; one compressor, or several in sequence."""
