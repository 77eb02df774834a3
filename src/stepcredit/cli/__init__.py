"""What the command line runs, one command per file."""
