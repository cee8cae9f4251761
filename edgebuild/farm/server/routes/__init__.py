"""The routes of the API, one file for each thing of the farm."""
