"""Recipes: compressors in sequence, one TOML file each, with the paper they follow and what they come to in tokens."""

from .recipe import Recipe, load, names, recipe_file, refuse_beside, skipped, table

__all__ = ["Recipe", "load", "names", "recipe_file", "refuse_beside", "skipped", "table"]
