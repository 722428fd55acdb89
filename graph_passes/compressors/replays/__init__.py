"""Checks the result of an implementation by the decisions that it made, where ties may fall either way."""
