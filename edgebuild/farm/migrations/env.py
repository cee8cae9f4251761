"""Alembic's entry: runs the migrations on the connection that ``Database.upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from edgebuild.farm.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
