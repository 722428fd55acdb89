"""From a request to the graphs of a bundle: planned, exported, typed, compressed, fitted to a device, written."""
