"""`ogp doctor`: what this machine offers a run, what stands in its way, and what to do about each problem."""
