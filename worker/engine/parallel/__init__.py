"""One model on several devices of a machine: every matrix split among processes by its outputs (tensor parallel).

No sum is ever split, so that answers and logprobs keep the bits they have in one process. That is what four gathers a
layer buy; see `ranks`.
"""
