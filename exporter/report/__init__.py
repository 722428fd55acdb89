"""report.html: one page of what an export did, what was proved, what it costs, and which tokens were kept.

look.py collects inputs and picks; pixels.py, colours.py, overlay.py and figures.py draw them. facts.py lists what was
chosen and the commands, cards.py what it loses and saves; bars.py and curve.py draw the accuracy. view.py gathers the
content of the page, page.py and report.html.j2 render it. picture.py and raster.py draw one input into its own file.
"""
