"""How the farm's tables came to be, one file for each change."""
