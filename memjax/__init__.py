"""memjax: fit a JAX train step into a memory budget, checked on the compiled program."""
