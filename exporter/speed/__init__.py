"""How fast a bundle answers, and what it takes: `tokexport bench`."""
