"""Layers around all routes, each a pure ASGI application. ``app.main`` lists them, outermost first."""
