"""The proof by parts against PyTorch: what is compared, how it is judged, and how a bundle is proved again."""
