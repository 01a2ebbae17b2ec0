"""What users meet: the HTTP API, the command line, and the whole service on one machine."""
