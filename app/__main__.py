"""``python -m app`` is ``digits``."""

from app.cli import main

main()
