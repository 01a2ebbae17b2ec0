"""The service as processes of one machine: what starts, watches and ends them."""
