"""What happens in a run, in plain sentences."""
