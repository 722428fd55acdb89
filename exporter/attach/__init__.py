"""A language model that somebody else exported, with inputs for merged tokens: made, proved and written."""
