"""Bytes over HTTP: forms on their way in, uploads and batch outputs on their way out."""
