"""Half precision as types of the graph: what cannot be held, what stays in float32, and the rewrite."""
