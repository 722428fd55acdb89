"""The bundle on disk: manifest, reader, writer, weights, and its replacement in one step."""
