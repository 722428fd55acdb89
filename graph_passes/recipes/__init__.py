"""Recipes: compressors in sequence, one TOML file each, with the paper they follow and the resulting token counts."""

from .recipe import Recipe, load, names, recipe_file, refuse_with_recipe, skipped, table

__all__ = ["Recipe", "load", "names", "recipe_file", "refuse_with_recipe", "skipped", "table"]
