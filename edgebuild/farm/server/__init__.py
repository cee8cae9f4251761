"""The farm over HTTP: an API with a schema, a page to look at, and figures for monitoring."""
