"""tiny-video: a real video-language model of 0.63 M parameters that says what moved, where to, and in which order.

`model` (torch) holds the modules to export, `clips` (numpy) draws, `questions` asks, `text` is the tokenizer.
"""
