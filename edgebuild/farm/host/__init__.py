"""A host of the farm: an agent that asks for work, and a process of its own for each job beside the board."""
