"""Decoders of transformers as static graphs: what every family of them shares."""
