"""Turns a job into a version: the queue, the job records, the training loop."""
