"""What makes launches few and brief. Apart from the driver, which shortens the protocols of whoever imports it."""

from __future__ import annotations

SHORT = {
    "warmup_min_s": 0.02,
    "warmup_cap_s": 0.02,
    "sample_s": 0.05,
    "burst_s": 0.005,
    "waiting_ratio": 1e9,
    "steal_ratio": 1.0,
}
