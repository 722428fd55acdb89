"""tiny-video: a small video-language model of 0.62 M parameters: what moved, in which direction, and in which order.

`model` (torch) has the modules to export, `clips` (numpy) draws, `questions` asks, `text` is the tokenizer.
"""
