"""The routes, thin: parse, call, answer."""
