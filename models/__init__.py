"""What a GAN is, what a version is, what the data are: pure PyTorch and files.

Must not know of Redis, Celery, HTTP or the environment.
"""
