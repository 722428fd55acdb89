"""From a model to a proved bundle, and the command line."""
