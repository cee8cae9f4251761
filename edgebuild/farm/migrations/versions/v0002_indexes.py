"""Indexes for hosts that ask for work, for those who wait and say nothing, and for what is to go after a while."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the indexes."""
    op.drop_index("devices_host", "devices")
    op.create_index("devices_host", "devices", ["host", "lease"], unique=False)
    op.create_index("devices_away", "devices", ["there", "host"], unique=False)
    op.create_index("devices_due", "devices", ["there", "check_due_at"], unique=False)
    op.create_index("jobs_attended", "jobs", ["state", "attended_at"], unique=False)
    op.create_index("jobs_ended", "jobs", ["state", "ended_at"], unique=False)
    op.create_index("records_job", "records", ["job"], unique=False)
