"""What several methods share: selection, merging, distances, grids, layers of learned compressors."""
