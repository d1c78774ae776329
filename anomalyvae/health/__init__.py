"""Sensor health: each signal of each window graded good, suspect or bad, with the reason."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.health.grades import grade
    from anomalyvae.health.profile import Profile, learn_profile
    from anomalyvae.health.sensors import Sensors

__all__ = ["Profile", "Sensors", "grade", "learn_profile"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Profile": "anomalyvae.health.profile",
        "Sensors": "anomalyvae.health.sensors",
        "grade": "anomalyvae.health.grades",
        "learn_profile": "anomalyvae.health.profile",
    },
)
