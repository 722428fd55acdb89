"""Half precision as types of the graph: values out of range, islands that stay in float32, and the rewrite."""
