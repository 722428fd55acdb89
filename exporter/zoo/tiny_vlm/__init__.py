"""tiny-vlm: a small vision-language model of 0.63 M parameters that answers questions about drawn scenes.

`model` (torch) has the modules to export, `scenes` (numpy) draws and asks, `text` (no dependencies) is the tokenizer.
"""
