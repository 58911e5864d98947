"""What `python -m benchmarks.gpu` is made of: shapes, workloads, ceilings, limits, engines, a check, table and picture.

It needs torch, this project's engine and, for the peers, transformers; matplotlib only for the picture.
"""
