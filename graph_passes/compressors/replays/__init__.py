"""Judging what an implementation returned by the decisions that it made, where ties may fall either way."""
