"""A farm's board used from one's own machine: its user and its host, each with a websocket to the server between."""
