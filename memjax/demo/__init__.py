"""The demonstration behind `memjax demo`. Needs the extra `demo`; imported by nothing else."""
