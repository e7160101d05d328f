"""Small tools that know nothing of JAX; every room may use them.

`budget` reads and writes bytes as people do, `brief` has tables and small charts, `checked` the
types of numbers in files, `largest` a search over integers. `looks` is the one way up: through it
a result asks the view how it looks.
"""
