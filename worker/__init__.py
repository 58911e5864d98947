"""The worker: a Celery pool whose processes are the rows of one tensor. Producers may import it; torch loads late."""
