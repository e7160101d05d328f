"""What people look at: texts, HTML, pages, figures and plain dictionaries.

In: results, which are data of the rooms below. Out: what a terminal, a notebook, a browser or a
file shows.

`text` and `html` are what prints and what a notebook shows, `plan_text` the same for plans,
`page` the page that stands alone (its parts are in `web`), `figures` is for matplotlib, and
`to_dict` for JSON. `palette` has the colours of all.
"""
