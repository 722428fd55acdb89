"""report.html: one page of what an export did, what was proved, what it costs, and which tokens were kept.

look.py collects inputs and picks; pixels.py, colours.py, overlay.py and figures.py draw them; facts.py and bars.py put
the export into words and bars; view.py is all that the page says, page.py and report.html.j2 say it. picture.py draws
one input for a file of its own.
"""
