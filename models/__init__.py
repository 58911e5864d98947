"""What is stored and what travels: tables, statuses, requests, messages, settings. No FastAPI, Celery or torch."""
