"""Where two models that should give the same begin to differ, and the smallest graph that shows it."""
