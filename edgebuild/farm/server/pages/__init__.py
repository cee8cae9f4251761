"""The farm's live page: rendered here, readable without a script, changed only by those who signed in."""

from __future__ import annotations

from edgebuild.farm.server.pages import acting, remembering, watching

ROUTERS = (watching.router, remembering.router, acting.router)
