"""report.html: one page of what an export did, what was proved, what it costs, and which tokens were kept.

look.py collects inputs and picks; pixels.py, colours.py, overlay.py and figures.py draw them. facts.py lists what was
chosen and the commands, bars.py the accuracy. view.py gathers the content of the page, page.py and report.html.j2
render it. picture.py and raster.py draw one input into an SVG or a PNG file of its own.
"""
