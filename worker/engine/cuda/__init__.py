"""What a GPU does otherwise than a CPU: keys and values in pages, and kernels in Triton. Imported where a GPU is used.

Every kernel runs on a CPU too, in Triton's interpreter (TRITON_INTERPRET=1), against the plain formula.
"""
