"""Methods x ratios on one model: the table, the cells that are kept, the picture."""
