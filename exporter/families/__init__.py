"""One file per model family: its graphs and its seams."""
