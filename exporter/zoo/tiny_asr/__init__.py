"""tiny-asr: a real speech recogniser of the shape of Whisper that writes down spoken digits.

`model` (torch) holds the modules to export, `speech` (numpy, espeak-ng) speaks, `clips` (numpy) reads what was spoken
once and committed, `text` (no dependencies) is the tokenizer.
"""
