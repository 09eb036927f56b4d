"""Side-by-side measurements; `python -m benchmarks` runs them and prints ratios."""
