"""tiny-ocr: a small vision-language model of 0.63 M parameters that reads coloured numbers in busy pictures.

`model` (torch) has the modules to export, `pictures` (numpy) draws and asks, `text` (no dependencies) is the tokenizer.
"""
