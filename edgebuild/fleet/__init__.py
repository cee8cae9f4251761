"""The machines that the user has: enrolled, reached, provided with runtimes."""
