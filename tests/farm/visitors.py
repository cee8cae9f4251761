"""Browsers without a window: what a person at the farm's page would send, forms and cookies included."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.testclient import TestClient

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = "http://localhost:8765"


@dataclass(kw_only=True)
class Visitor:
    """Somebody who looks at the page; ``own`` are the headers that a browser sends with this farm's own forms."""

    client: TestClient
    own: dict[str, str]

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, follow_redirects=False, **more)

    def post(self, path: str, fields: dict[str, str] | None = None, **more: Any) -> Any:
        headers = {**self.own, **more.pop("headers", {})}
        return self.client.post(path, data=fields or {}, headers=headers, follow_redirects=False, **more)

    def sign_in(self, token: str, **fields: str) -> Any:
        return self.post("/login", {"token": token, **fields})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]

    def press(self, path: str, **fields: str) -> Any:
        """Send a form as the page that it is on would."""
        return self.post(path, {"csrf": self.csrf(), **fields})


def visitor(app: FastAPI, base: str = HERE) -> Visitor:
    origin = {"Origin": base, "Sec-Fetch-Site": "same-origin"}
    return Visitor(client=TestClient(app, base_url=base), own=origin)
