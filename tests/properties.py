"""How hypothesis looks at properties: for as long as it takes.

One holds or not; how slow a machine is that others use as well is no part of it.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
