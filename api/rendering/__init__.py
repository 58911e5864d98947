"""Stored things to what users read: OpenAI's bodies, lines and events, and our own. The command line
renders with it too, so it knows neither FastAPI nor where rows come from.
"""
