"""tiny-asr: a small speech recogniser with Whisper's architecture that transcribes spoken digits.

`model` (torch) has the modules to export, `speech` (numpy, espeak-ng) speaks, `clips` (numpy) reads the committed
recordings, `text` (no dependencies) is the tokenizer.
"""
