"""A bundle written as the files that other people's runtimes read; docs/other-runtimes.md says what each carries."""
