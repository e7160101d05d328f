"""Small tools that know neither JAX nor memjax; every room may use them.

`budget` reads and writes bytes as people do, `brief` has tables and small charts, `checked` the
types of numbers in files, `largest` a search over integers.
"""
