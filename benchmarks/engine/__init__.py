"""The engine beside its peers, on the same greedy work in one run, one thread: `python -m benchmarks.engine --help`.

Times are the process's own CPU seconds, with wall seconds beside them: other work on the machine then stretches
neither side. Every side warms up first, and its answers are compared with ours.
"""
