"""What people look at: texts, HTML, pages, figures and plain dictionaries.

In: results, which are data of the rooms below. Out: what a terminal, a notebook, a browser or a
file shows.

`looks` says which function shows which kind of result: `text` and `html` what prints and what a
notebook shows, `plan_text` and `searches` the same for plans, frontiers and batch sizes, `to_dict`
plain values for JSON. `page` is the page that stands alone (its parts are in `web`), `figures` is
for matplotlib, and `palette` has the colours of all.
"""
