"""The HTTP service: OpenAI's shapes over the jobs table. No worker, no torch, no queries of its own."""
