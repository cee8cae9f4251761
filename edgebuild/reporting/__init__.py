"""What a person looks at: the terminal summary and the one-file HTML report."""
