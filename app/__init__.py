"""Answers people: the HTTP API, the command line, and everything on one machine."""
